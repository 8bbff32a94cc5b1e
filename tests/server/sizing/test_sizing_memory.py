"""The arithmetic of an engine's memory, held against what the code that allocates it says and takes."""

import math
from dataclasses import replace

import pytest

from fathom_server.engine.kv_cache import PagedCache, SlotCache
from fathom_server.engine.settings import EngineLimits, GraphDescription
from fathom_server.native.cache_layout import KV_DTYPES
from fathom_server.sizing.form import EngineForm
from fathom_server.sizing.memory import EngineMemory, Load
from fathom_server.sizing.shape import DecoderShape, Precision, Runner

SMOLLM2_360M = DecoderShape(
    hidden=960, layers=32, heads=15, kv_heads=5, head_dim=64, intermediate=2560, vocabulary=49152, vector_values=62400
)
LLAMA_8B = DecoderShape(
    hidden=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate=14336,
    vocabulary=128256,
    tied_embeddings=False,
    vector_values=266240,
)
FORMS: tuple[tuple[Precision, Runner], ...] = (
    ("fp32", "stock"),
    ("int8", "native"),
    ("int4", "native"),
    ("fp16", "cuda"),
    ("fp8", "cuda"),
    ("fp16", "plan"),
)


def sized(precision: Precision = "int8", runner: Runner = "native", **limits: int) -> EngineMemory:
    return EngineMemory(SMOLLM2_360M, EngineForm(precision, runner), EngineLimits(**limits), 2048)  # type: ignore[arg-type]


def test_parameters_are_those_that_the_models_are_known_for() -> None:
    """SmolLM2-360M has 361,821,120 weights and Llama 3.1 8B 8,030,261,248, as their checkpoints' headers say."""
    assert SMOLLM2_360M.parameters == 361_821_120
    assert LLAMA_8B.parameters == 8_030_261_248


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_cache_of_blocks_is_as_large_as_the_engine_makes_it(kv_dtype: str) -> None:
    """Bytes of a token and of the whole cache are those of the engine's own arrays."""
    graph = GraphDescription("cpu", "int8", 3, 5, 64, 100, 2048)
    cache = PagedCache(graph, 48, 32, kv_dtype)  # type: ignore[arg-type]
    shape = replace(SMOLLM2_360M, layers=3)
    form = EngineForm("int8", "native", kv_dtype=kv_dtype)
    engine = EngineMemory(shape, form, EngineLimits(max_batch=3, max_context=500), 2048)
    assert form.cache_bytes_per_token(shape) == cache.bytes_per_token()
    assert engine.reserved_tokens * engine.cache_bytes_per_token == cache.memory.nbytes


def test_cache_of_slots_is_as_large_as_the_engine_makes_it() -> None:
    """So are those of slots, one of which is spare."""
    graph = GraphDescription("cpu", "fp32", 2, 5, 64, 100, 256)
    cache = SlotCache(graph, 4 + 1, 256)
    engine = EngineMemory(
        replace(SMOLLM2_360M, layers=2), EngineForm("fp32", "stock"), EngineLimits(max_batch=4, max_context=256), 256
    )
    assert engine.cache_bytes_per_token == cache.bytes_per_token()
    assert engine.reserved_tokens * engine.cache_bytes_per_token == sum(p.nbytes for pair in cache.layers for p in pair)


def test_packed_weights_take_what_the_kernels_read() -> None:
    """A panel of 32 columns holds its scales and its codes; int8 is one block a column, int4 one for 32 inputs."""
    int8, int4 = EngineForm("int8", "native"), EngineForm("int4", "native", block_size=32)
    product = SMOLLM2_360M.layer_products[3]
    panels = 960 // 32
    assert int8.product_bytes(product) == panels * (32 * 4 + 2560 * 32)
    assert int4.product_bytes(product) == panels * (2560 // 32) * (32 * 4 + 32 * 32 // 2)
    assert EngineForm("int4", "native", 32, zero_points=True).product_bytes(product) == panels * 80 * (128 + 64 + 512)


def test_precisions_are_as_far_apart_as_their_bits() -> None:
    """The matrices of a layer take 4, 1, about 5 / 8, 2 and about 1 byte a weight."""
    weights = SMOLLM2_360M.layer_weights
    layer = {
        (precision, runner): SMOLLM2_360M.layers
        * sum(EngineForm(precision, runner).product_bytes(product) for product in SMOLLM2_360M.layer_products)
        for precision, runner in FORMS
    }
    expected = {"fp32": 4, "int8": 1, "int4": 5 / 8, "fp16": 2, "fp8": 1}
    for (precision, _), size in layer.items():
        assert math.isclose(size / weights, expected[precision], rel_tol=0.05), precision


@pytest.mark.parametrize(("precision", "runner"), FORMS)
def test_parts_sum_to_the_total_and_grow_with_the_load(precision: Precision, runner: Runner) -> None:
    """No part is negative, and neither another request nor another token makes it less."""
    engine = sized(precision, runner)
    totals = []
    for load in (Load(1, 100, 10), Load(4, 100, 10), Load(4, 100, 300), Load(16, 1800, 200)):
        memory = engine.under(load)
        assert all(size >= 0 for _, size in memory.parts)
        assert memory.total == sum(size for _, size in memory.parts)
        totals.append(memory.total)
    assert totals == sorted(totals)
    assert engine.full().total >= totals[-1]


def test_prompt_and_generation_are_told_apart_by_whole_blocks() -> None:
    """A prompt of 33 tokens holds two blocks of 32; its answer then holds what comes beyond them."""
    engine = sized()
    memory = engine.under(Load(2, 33, 95))
    each = engine.cache_bytes_per_token
    assert (memory.prompt_cache, memory.generation_cache) == (2 * 64 * each, 2 * 64 * each)


@pytest.mark.parametrize(("precision", "runner"), FORMS)
@pytest.mark.parametrize("limit_gib", [2, 3.7, 24])
def test_the_largest_number_of_requests_fits_and_one_more_does_not(
    precision: Precision, runner: Runner, limit_gib: float
) -> None:
    """What is told as the most is the most."""
    engine, load, limit = sized(precision, runner), Load(1, 700, 200), round(limit_gib * (1 << 30))
    most = engine.largest_requests(load, limit)

    def total(requests: int) -> int:
        asked = replace(load, requests=requests)
        return engine.sized_for(asked).under(asked).total

    assert most > 0
    assert total(most) <= limit < total(most + 1)


@pytest.mark.parametrize(("precision", "runner"), FORMS)
def test_the_longest_context_fits_and_one_token_more_does_not(precision: Precision, runner: Runner) -> None:
    """The same of the longest context at a number of requests."""
    engine, limit = sized(precision, runner), 3 << 30
    longest = engine.longest_context(4, limit)

    def total(context: int) -> int:
        asked = Load(4, context, 0)
        return engine.sized_for(asked).under(asked).total

    assert total(longest) <= limit < total(longest + 1)


def test_nothing_fits_into_nothing() -> None:
    """Too little memory for the weights alone: no request, no context."""
    engine = sized()
    assert engine.largest_requests(Load(1, 10, 10), 100 << 20) == 0
    assert engine.longest_context(1, 100 << 20) == 0


def test_a_gpu_takes_its_whole_cache_at_the_start() -> None:
    """On a GPU the total does not depend on how much of the cache is in use."""
    engine = sized("fp16", "cuda", max_batch=8, max_context=1024)
    assert len({engine.at_load().total, engine.under(Load(3, 100, 50)).total, engine.full().total}) == 1


def test_weights_are_split_over_gpus() -> None:
    """Of a model over four GPUs each has a fourth of layers and cache; heads that do not divide are refused."""
    part = LLAMA_8B.shard(4)
    assert part is not None
    assert part.layer_weights * 4 == LLAMA_8B.layer_weights
    form = EngineForm("fp16", "cuda")
    assert form.cache_bytes_per_token(part) * 4 == form.cache_bytes_per_token(LLAMA_8B)
    assert LLAMA_8B.shard(3) is None
    assert SMOLLM2_360M.shard(2) is None
    kept = replace(LLAMA_8B, kv_heads=2).shard(8)
    assert kept is not None
    assert kept.kv_heads == 1


def test_windows_bound_what_a_query_sees() -> None:
    """A layer with a window of 512 tokens sees no more; one without sees all."""
    shape = replace(SMOLLM2_360M, layers=2, windows=(512, 0))
    assert shape.seen_tokens(2000) == (512 + 2000) / 2
    assert SMOLLM2_360M.seen_tokens(2000) == 2000
