"""A query's context has the same bits whatever else is in the step, however its prompt came, wherever it lies."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.native.attention_reference import Floats, Sequences, Shape, session
from tests.server.native.linear_case import available_levels

KV_DTYPES = ("int8", "float16", "float32")
SHAPES = [
    Shape(heads=6, kv_heads=2, rotary=64),
    Shape(heads=5, kv_heads=5, head_dim=80, window=70, norms=True),
    Shape(heads=8, kv_heads=1, head_dim=96, softcap=30.0, rotary=96, block_tokens=64),
    Shape(heads=30, kv_heads=1, head_dim=32, window=300),
]


@pytest.fixture(params=[replace(made, kv_dtype=kv_dtype) for made in SHAPES for kv_dtype in KV_DTYPES], ids=str)
def shape(request: pytest.FixtureRequest) -> Shape:
    """Each shape with each kind of cache."""
    made: Shape = request.param
    return made


def tokens_of(shape: Shape, tokens: int, seed: int = 0) -> Floats:
    """Random queries, keys and values, [tokens, width]."""
    return np.random.default_rng(seed).normal(size=(tokens, shape.width)).astype(np.float32)


def computed(shape: Shape, qkv: Floats, pieces: Iterator[int], *, seed: int = 0, **options: Any) -> Floats:
    """The context of one sequence alone, its tokens in steps of these sizes."""
    sequences = Sequences(shape, session(shape, **options))
    needed = -(-len(qkv) // shape.block_tokens)
    sequences.place(0, np.random.default_rng(seed).permutation(sequences.blocks)[:needed])
    contexts, at = [], 0
    while at < len(qkv):
        size = next(pieces)
        contexts += sequences.step([(0, qkv[at : at + size])])
        at += size
    return np.concatenate(contexts)


@pytest.mark.parametrize("pieces", [[1], [7], [32], [33], [100, 1, 2, 3, 150]], ids=str)
def test_chunks_do_not_matter(shape: Shape, pieces: Sequence[int]) -> None:
    """A prompt in pieces gives the bits of the whole, in other blocks too."""
    qkv = tokens_of(shape, 331)
    alone = computed(shape, qkv, itertools.repeat(len(qkv)))
    np.testing.assert_array_equal(computed(shape, qkv, itertools.cycle(pieces), seed=1), alone)


def test_levels_and_threads_do_not_matter(shape: Shape) -> None:
    """Every instruction set and number of threads computes the same bits."""
    qkv = tokens_of(shape, 300)
    wanted = computed(shape, qkv, itertools.repeat(300))
    for level in available_levels():
        np.testing.assert_array_equal(computed(shape, qkv, itertools.cycle([299, 1]), isa=level), wanted)
    for threads in (1, 5):
        np.testing.assert_array_equal(computed(shape, qkv, itertools.cycle([299, 1]), threads=threads), wanted)


def test_company_does_not_matter(shape: Shape) -> None:
    """Sixteen sequences that prefill and decode side by side get the bits that each gets alone."""
    lengths = [1, 5, 31, 32, 33, 64, 90, 130, 200, 255, 256, 257, 258, 300, 520, 700]
    prompts = [tokens_of(shape, length + 3, seed=length) for length in lengths]
    wanted = [computed(shape, prompt, itertools.repeat(len(prompt))) for prompt in prompts]
    sequences = Sequences(shape, session(shape), blocks=160)
    order = iter(np.random.default_rng(1).permutation(160))
    for number, prompt in enumerate(prompts):
        sequences.place(number, [next(order) for _ in range(-(-len(prompt) // shape.block_tokens))])
    found: list[list[Floats]] = [[] for _ in prompts]
    at = [0] * len(prompts)
    step = 0
    while any(at[number] < len(prompt) for number, prompt in enumerate(prompts)):
        rows = []
        for number, prompt in enumerate(prompts):
            # some decode while others prefill, some sit a step out
            size = (0, 64, 1, 200, 33)[(number + step) % 5] if at[number] < len(prompt) - 3 else 1
            rows.append((number, prompt[at[number] : at[number] + size]))
        for (number, part), context in zip(rows, sequences.step(rows), strict=True):
            found[number].append(context)
            at[number] += len(part)
        step += 1
    for number, contexts in enumerate(found):
        np.testing.assert_array_equal(np.concatenate(contexts), wanted[number], err_msg=str(lengths[number]))


def test_a_long_sequence_alone_is_shared_between_threads_without_a_trace(shape: Shape) -> None:
    """One token after 1,500, which threads share by ranges of keys, equals the same token among many rows."""
    qkv = tokens_of(shape, 1501)
    wanted = computed(shape, qkv, itertools.repeat(1501))[1500:]
    sequences = Sequences(shape, session(shape, threads=3), blocks=128)
    sequences.place(0, range(63, -1, -1)[: -(-1501 // shape.block_tokens)])
    sequences.step([(0, qkv[:1500])])
    for others in range(17):
        sequences.lengths[0] = 1500
        rows = [(0, qkv[1500:])]
        for other in range(1, others + 1):
            sequences.place(other, [100 + other])
            rows.append((other, tokens_of(shape, 1, seed=other)))
        np.testing.assert_array_equal(sequences.step(rows)[0], wanted)


def test_rejected_drafts_leave_no_trace(shape: Shape) -> None:
    """Tokens computed after drafts were rejected and overwritten equal those without drafts."""
    qkv = tokens_of(shape, 120)
    wanted = computed(shape, qkv, itertools.cycle([60, 1]))
    sequences = Sequences(shape, session(shape))
    sequences.place(0, range(8))
    contexts = sequences.step([(0, qkv[:60])])
    at = 60
    while at < len(qkv):
        drafts = tokens_of(shape, 5, seed=at)
        drafts[0] = qkv[at]
        contexts.append(sequences.step([(0, drafts)])[0][:1])
        at += 1
        sequences.lengths[0] = at
    np.testing.assert_array_equal(np.concatenate(contexts), wanted)


def test_sequences_may_read_the_same_blocks(shape: Shape) -> None:
    """Sequences that begin alike share the blocks of their beginning and get the bits of having their own."""
    common = 2 * shape.block_tokens
    beginning = tokens_of(shape, common, seed=9)
    rests = [tokens_of(shape, size, seed=size) for size in (1, 40, 7)]
    wanted = [computed(shape, np.concatenate([beginning, rest]), itertools.repeat(2000))[common:] for rest in rests]
    sequences = Sequences(shape, session(shape))
    sequences.place(0, [7, 3, 20])
    sequences.step([(0, beginning)])
    shared = sequences.cache[:, [7, 3]].copy()
    sequences.place(0, [7, 3, 20, 30], past=common)
    sequences.place(1, [7, 3, 21, 31], past=common)
    sequences.place(2, [7, 3, 22, 32], past=common)
    for found, context in zip(sequences.step(list(enumerate(rests))), wanted, strict=True):
        np.testing.assert_array_equal(found, context)
    np.testing.assert_array_equal(sequences.cache[:, [7, 3]], shared)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_what_is_not_a_number_stays_in_its_row(shape: Shape, poison: float, part: str) -> None:
    """A row with NaN or infinity spoils itself from there on, neither its neighbours nor its blocks' heirs."""
    clean = tokens_of(shape, 100, seed=5)
    wanted = computed(shape, clean, itertools.repeat(100))
    poisoned = tokens_of(shape, 100, seed=6)
    before = computed(shape, poisoned, itertools.repeat(100))
    first = {"query": 0, "key": shape.heads, "value": shape.heads + shape.kv_heads}[part] * shape.head_dim
    poisoned[50, first : first + shape.head_dim] = poison
    sequences = Sequences(shape, session(shape))
    for number, blocks in enumerate(([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11])):
        sequences.place(number, blocks)
    contexts = sequences.step([(0, clean), (1, poisoned), (2, clean)])
    np.testing.assert_array_equal(contexts[0], wanted)
    np.testing.assert_array_equal(contexts[2], wanted)
    np.testing.assert_array_equal(contexts[1][:50], before[:50])
    head = contexts[1][50].reshape(shape.heads, shape.head_dim)[0]
    if not (part == "key" and np.isinf(poison) and shape.kv_dtype != "int8"):
        assert not np.isfinite(head).all()
    sequences.place(3, [4, 5, 6, 7])
    np.testing.assert_array_equal(sequences.step([(3, clean)])[0], wanted)


def test_rows_without_tokens(shape: Shape) -> None:
    """Rows that sit a step out change nothing, and a step of none has an empty context."""
    qkv = tokens_of(shape, 40)
    nothing = qkv[:0]
    sequences = Sequences(shape, session(shape))
    for number in range(3):
        sequences.place(number, [2 * number, 2 * number + 1])
    contexts = sequences.step([(0, nothing), (1, qkv), (2, nothing)])
    assert [len(context) for context in contexts] == [0, 40, 0]
    np.testing.assert_array_equal(contexts[1], computed(shape, qkv, itertools.repeat(40)))
    assert [len(context) for context in sequences.step([(0, nothing)])] == [0]
    assert sequences.step([]) == []


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=5),
    sizes=st.lists(st.integers(0, 70), min_size=1, max_size=12).filter(any),
    kv_dtype=st.sampled_from(KV_DTYPES),
    window=st.sampled_from([0, 20, 64]),
)
def test_any_schedule_gives_the_same_bits(lengths: list[int], sizes: list[int], kv_dtype: str, window: int) -> None:
    """However steps divide the tokens of some sequences, each sequence's context is that of one step alone."""
    shape = Shape(heads=4, kv_heads=2, head_dim=32, rotary=32, kv_dtype=kv_dtype, window=window)
    prompts = [tokens_of(shape, length, seed=number) for number, length in enumerate(lengths)]
    sequences = Sequences(shape, session(shape))
    order = iter(np.random.default_rng(len(sizes)).permutation(sequences.blocks))
    for number, prompt in enumerate(prompts):
        sequences.place(number, [next(order) for _ in range(-(-len(prompt) // 32))])
    found: list[list[Floats]] = [[] for _ in prompts]
    at = [0] * len(prompts)
    turn = itertools.cycle(sizes)
    while any(at[number] < len(prompt) for number, prompt in enumerate(prompts)):
        rows = []
        counts = [next(turn) for _ in prompts]
        if not any(count and at[number] < len(prompts[number]) for number, count in enumerate(counts)):
            counts = [1] * len(prompts)  # else the same turns could come again for ever, and all be empty
        for number, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
            rows.append((number, prompt[at[number] : at[number] + count]))
            at[number] += len(rows[-1][1])
        for (number, _), context in zip(rows, sequences.step(rows), strict=True):
            found[number].append(context)
    for number, prompt in enumerate(prompts):
        alone = computed(shape, prompt, itertools.repeat(len(prompt)))
        np.testing.assert_array_equal(np.concatenate(found[number]), alone)
