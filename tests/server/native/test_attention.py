"""Attention against float64, for every kind of cache, at every instruction set, and what it leaves in the cache."""

from dataclasses import replace

import numpy as np
import pytest
from tests.server.native.attention_reference import Floats, Sequences, Shape, cosine, hadamard, reference, session
from tests.server.native.linear_case import LEVELS, available_levels

from fathom_server.native.cache_layout import block_bytes, bytes_per_token
from fathom_server.native.library import ISA

# 1 - cosine that a token's context may miss float64 by
ALLOWED = {"int8": 1e-3, "float16": 1e-6, "float32": 1e-9}
LENGTHS = (1, 2, 31, 32, 33, 63, 65, 96, 255, 256, 257, 290)

SHAPES = [
    Shape(),
    Shape(heads=15, kv_heads=5, rotary=64),
    Shape(heads=4, kv_heads=4, head_dim=32, scale=0.18, rotary=32),
    Shape(heads=8, kv_heads=1, norms=True, rotary=64),
    Shape(heads=6, kv_heads=2, head_dim=80, scale=0.11, rotary=32),
    Shape(heads=2, kv_heads=2, head_dim=96, scale=0.1, rotary=96, softcap=30.0),
    Shape(heads=3, kv_heads=1, head_dim=128, scale=0.088, rotary=22),
    Shape(heads=4, kv_heads=2, head_dim=256, scale=0.0625, rotary=256, norms=True, softcap=50.0),
    Shape(heads=7, kv_heads=1, head_dim=48, scale=0.14, block_tokens=64),
    Shape(heads=17, kv_heads=1, head_dim=16, scale=0.25),
    Shape(window=1),
    Shape(window=31, rotary=64),
    Shape(window=32),
    Shape(window=33, block_tokens=96),
    Shape(window=257, softcap=20.0),
]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this processor has, forced."""
    monkeypatch.setenv(ISA, request.param)
    if request.param not in available_levels():
        pytest.skip(f"this processor lacks {request.param}")
    return str(request.param)


def tokens_of(shape: Shape, tokens: int, seed: int = 0) -> Floats:
    """Random queries, keys and values, [tokens, width]."""
    return np.random.default_rng(seed).normal(size=(tokens, shape.width)).astype(np.float32)


def like_trained(shape: Shape, tokens: int) -> Floats:
    """Queries, keys and values as trained models have them: large dimensions, a first token of small value."""
    random = np.random.default_rng(1)
    x = random.normal(size=(tokens, shape.heads + 2 * shape.kv_heads, shape.head_dim)).astype(np.float32)
    key, value = shape.heads, shape.heads + shape.kv_heads
    large = [3, 17, 40]
    x[:, :value, large] *= 4
    x[:, key:value, large] += np.array([12, -12, 12], np.float32)
    x[:, :key] *= 0.6
    x[0, key:value] *= 0.3
    x[0, value:] *= 0.05
    x[:, value:, [5, 50]] *= 8
    return x.reshape(tokens, -1)


def whole(shape: Shape, qkv: Floats) -> Floats:
    """The context of one sequence in one step, its blocks scattered."""
    sequences = Sequences(shape, session(shape))
    sequences.place(0, np.random.default_rng(2).permutation(sequences.blocks)[: -(-len(qkv) // shape.block_tokens)])
    return sequences.step([(0, qkv)])[0]


@pytest.mark.parametrize("kv_dtype", ALLOWED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_context_is_that_of_float64(shape: Shape, kv_dtype: str, level: str) -> None:
    """A prompt's context agrees with float64 for every head size, group, window, cap, norm and rotation."""
    shape = replace(shape, kv_dtype=kv_dtype)
    qkv = tokens_of(shape, 290)
    assert 1 - cosine(whole(shape, qkv), reference(shape, qkv)) < ALLOWED[kv_dtype]


@pytest.mark.parametrize("kv_dtype", ALLOWED)
def test_every_length_around_a_blocks_border(kv_dtype: str) -> None:
    """Sequences that end just before, at and after a block's border decode right, all in one step."""
    shape = Shape(heads=6, kv_heads=2, rotary=64, kv_dtype=kv_dtype)
    sequences = Sequences(shape, session(shape), blocks=128)
    order = iter(np.random.default_rng(3).permutation(128))
    prompts = {length: tokens_of(shape, length + 1, seed=length) for length in LENGTHS}
    for length in LENGTHS:
        sequences.place(length, [next(order) for _ in range(length // 32 + 1)])
    sequences.step([(length, prompts[length][:-1]) for length in LENGTHS])
    contexts = sequences.step([(length, prompts[length][-1:]) for length in LENGTHS])
    for length, context in zip(LENGTHS, contexts, strict=True):
        assert 1 - cosine(context, reference(shape, prompts[length])[-1:]) < ALLOWED[kv_dtype], length


@pytest.mark.parametrize(("kv_dtype", "allowed"), [("int8", 1e-3), ("float16", 1e-4), ("float32", 1e-9)])
def test_large_dimensions_cost_the_others_nothing(kv_dtype: str, allowed: float) -> None:
    """Keys and values with the outlying dimensions of trained models keep their precision in an 8-bit cache."""
    shape = Shape(kv_dtype=kv_dtype)
    qkv = like_trained(shape, 600)
    assert 1 - cosine(whole(shape, qkv), reference(shape, qkv)) < allowed


def test_the_int8_cache_holds_what_its_layout_says() -> None:
    """Codes and scales, read by the layout's description, give back the turned keys and values within half a step."""
    shape = Shape(heads=6, kv_heads=2, head_dim=80)
    qkv = tokens_of(shape, 70)
    sequences = Sequences(shape, session(shape), blocks=5)
    sequences.place(0, [4, 1, 3])
    sequences.step([(0, qkv)])
    _, keys, values = np.split(qkv.reshape(70, -1, 80).astype(np.float64), [6, 8], axis=1)
    for position in range(70):
        block = sequences.cache[0, [4, 1, 3][position // 32]].reshape(2, -1)
        slot = position % 32
        for head in range(2):
            part = 32 * 80
            key_codes = block[head, :part].reshape(20, 32, 4)[:, slot].reshape(80).astype(int) - 128
            value_codes = block[head, part : 2 * part].view(np.int8).reshape(8, 80, 4)[slot // 4, :, slot % 4]
            scales = block[head, 2 * part :].view(np.float32).reshape(2, 32)[:, slot]
            for codes, scale, x in zip((key_codes, value_codes), scales, (keys, values), strict=True):
                turned = hadamard(x[position, head])
                assert scale == pytest.approx(np.abs(turned).max() / 127, rel=1e-6)
                np.testing.assert_allclose(codes * scale, turned, atol=scale * 0.501)


@pytest.mark.parametrize("kv_dtype", ["float16", "float32"])
def test_the_float_caches_hold_what_their_layout_says(kv_dtype: str) -> None:
    """Keys lie by dimension, values by token, in the cache's own precision."""
    shape = Shape(heads=2, kv_heads=2, head_dim=48, kv_dtype=kv_dtype)
    qkv = tokens_of(shape, 40)
    sequences = Sequences(shape, session(shape), blocks=3)
    sequences.place(0, [2, 0])
    sequences.step([(0, qkv)])
    _, keys, values = np.split(qkv.reshape(40, -1, 48).astype(kv_dtype), [2, 4], axis=1)
    stored = sequences.cache[0, [2, 0]].view(kv_dtype).reshape(2, 2, 2, -1)
    for position in range(40):
        key, value = stored[position // 32, :, 0], stored[position // 32, :, 1]
        np.testing.assert_array_equal(key.reshape(2, 48, 32)[..., position % 32], keys[position])
        np.testing.assert_array_equal(value.reshape(2, 32, 48)[:, position % 32], values[position])


@pytest.mark.parametrize("kv_dtype", ALLOWED)
def test_nothing_but_the_new_tokens_is_written(kv_dtype: str) -> None:
    """A step leaves every other block, layer and token of the cache as it was."""
    shape = Shape(kv_dtype=kv_dtype, layer=1)
    sequences = Sequences(shape, session(shape), blocks=6, layers=3)
    sequences.place(0, [5, 2])
    sequences.step([(0, tokens_of(shape, 33))])
    before = sequences.cache.copy()
    sequences.step([(0, tokens_of(shape, 3, seed=1))])
    changed = sequences.cache != before
    assert changed[1, 2].any()
    changed[1, 2] = False
    assert not changed.any()
    # What tokens 0 and 4 ... 31 of the block hold: the first is older, the others are still rubbish.
    again = Sequences(shape, session(shape), blocks=6, layers=3)
    again.place(0, [5, 2])
    again.step([(0, np.concatenate([tokens_of(shape, 33), tokens_of(shape, 3, seed=1)]))])
    np.testing.assert_array_equal(again.cache, sequences.cache)


def test_the_largest_float16_key_is_kept_and_larger_ones_are_infinite() -> None:
    """Float16 caches round to nearest even up to 65504, at every instruction set alike."""
    numbers = np.array([65504, 65519, 65520, 1e30, 6e-8, 2.9e-8, 1 + 2**-11, 1 + 3 * 2**-11, -0.0], np.float32)
    stored = []
    for level in available_levels():
        shape = Shape(heads=1, kv_heads=1, head_dim=16, kv_dtype="float16")
        qkv = np.zeros((1, 48), np.float32)
        qkv[0, 32 : 32 + len(numbers)] = numbers
        sequences = Sequences(shape, session(shape, isa=level), blocks=1)
        sequences.place(0, [0])
        sequences.step([(0, qkv)])
        stored.append(sequences.cache[0, 0].view(np.float16)[16 * 32 :][: len(numbers)].copy())
    with np.errstate(over="ignore"):
        wanted = numbers.astype(np.float16)
    for found in stored:
        np.testing.assert_array_equal(found.view(np.uint16), wanted.view(np.uint16))


def test_the_layouts_bytes() -> None:
    """A block's size follows from the numbers in it, and sizes that the operator refuses are refused here."""
    assert block_bytes(5, 64) == 5 * 32 * (64 + 64 + 4 + 4)
    assert block_bytes(5, 64, 64, "float16") == 5 * 64 * 128 * 2
    assert block_bytes(1, 128, 32, "float32") == 32 * 256 * 4
    assert bytes_per_token(32, 5, 64) == 32 * 5 * 136
    for wrong in (
        (0, 64, 32, "int8"),
        (1, 60, 32, "int8"),
        (1, 528, 32, "int8"),
        (1, 64, 48, "int8"),
        (1, 64, 32, "int4"),
    ):
        with pytest.raises(ValueError, match="must be"):
            block_bytes(*wrong)
