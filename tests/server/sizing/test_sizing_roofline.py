"""The time of a step by bytes and operations."""

import subprocess
import sys
from dataclasses import replace

import pytest

from fathom_server.sizing.form import EngineForm
from fathom_server.sizing.roofline import (
    Accelerator,
    AttentionRates,
    Curve,
    Processor,
    ProductRates,
    StepLoad,
    decode_seconds,
    prefill_seconds,
)
from fathom_server.sizing.served import REQUEST_S, SHARE, TOKEN_S, ServedProcessor
from fathom_server.sizing.shape import DecoderShape

SHAPE = DecoderShape(hidden=512, layers=8, heads=8, kv_heads=4, head_dim=64, intermediate=2048, vocabulary=32000)
GPU = Accelerator("gpu", 1e12, {"fp16": 1e14, "fp8": 2e14})
FP16, FP8, INT8 = EngineForm("fp16", "cuda"), EngineForm("fp8", "cuda"), EngineForm("int8", "native")


def processor(seconds_per_weight: float = 1e-10) -> Processor:
    """A CPU on which a weight takes the same at any number of rows up to 8, then grows with them."""
    curve = Curve((1.0, 8.0, 64.0), (seconds_per_weight, seconds_per_weight, 8 * seconds_per_weight))
    rates = ProductRates((4e6, 1e8), (curve, curve))
    return Processor(
        "cpu", 2e10, {"int8": rates}, {"int8": AttentionRates(1e-10, 1e-12, 1e-11)}, {"native": 1e-5}, 1e-4, 1e-5
    )


def test_decode_of_one_is_bound_by_the_weights_and_takes_their_bytes_over_the_bandwidth() -> None:
    """One token reads every weight once: the time is bytes over bandwidth, and the cache's beside it."""
    step = decode_seconds(GPU, SHAPE, FP16, 1, 100)
    weights = 2 * (SHAPE.layer_weights + SHAPE.lm_head.weights)
    cache = 101 * FP16.cache_bytes_per_token(SHAPE)
    assert step.binds == "weights' bandwidth"
    assert step.seconds == pytest.approx((weights + cache) / 1e12, rel=1e-3)


def test_prefill_is_bound_by_the_products_and_takes_their_operations_over_the_rate() -> None:
    """A long chunk does two operations a weight and row, and attention's beside them."""
    step = prefill_seconds(GPU, SHAPE, FP16, 4096, 4096)
    operations = 2 * 4096 * SHAPE.layer_weights + 2 * SHAPE.lm_head.weights
    attention = 4 * 4096 * 2048.5 * SHAPE.layers * SHAPE.heads * SHAPE.head_dim
    assert step.binds == "matrix products"
    assert step.seconds == pytest.approx((operations + attention) / 1e14, rel=1e-3)


def test_fp8_halves_what_binds() -> None:
    """With fp8 units both weights' bytes and products' operations take about half."""
    for rows in (StepLoad(1, 10, 1, 1), StepLoad(1, 0, 4096, 1)):
        half = GPU.step(replace(SHAPE, vocabulary=64), FP8, rows).parts
        whole = GPU.step(replace(SHAPE, vocabulary=64), FP16, rows).parts
        for name in ("weights' bandwidth", "matrix products"):
            assert half[name] == pytest.approx(whole[name] / 2, rel=0.05)


def test_a_batch_costs_little_until_products_bind() -> None:
    """Eight sequences take hardly longer than one, a thousand much longer."""
    one, eight, thousand = (decode_seconds(GPU, SHAPE, FP16, batch, 16).seconds for batch in (1, 8, 1000))
    assert eight < 1.2 * one
    assert thousand > 3 * one


def test_tensor_parallelism_pays_for_its_exchange() -> None:
    """Two GPUs take less than one and more than half, and the rest goes over the link."""
    part = SHAPE.shard(2)
    assert part is not None
    pair = replace(GPU, ways=2, link_bytes_per_s=1e11)
    one, two = decode_seconds(GPU, SHAPE, FP16, 64, 500), decode_seconds(pair, part, FP16, 64, 500)
    assert one.seconds / 2 < two.seconds < one.seconds
    assert two.parts["overhead"] > 0


def test_a_curve_goes_through_its_points_and_on_in_proportion() -> None:
    """Between two points it rises with neither a jump nor a dip; twice the last number takes twice as long."""
    curve = Curve((1.0, 4.0, 16.0), (1.0, 2.0, 8.0))
    assert [curve(number) for number in (0.5, 1, 4, 16, 32)] == pytest.approx([1, 1, 2, 8, 16])
    values = [curve(1 + number / 10) for number in range(200)]
    assert values == sorted(values)


def test_a_working_set_between_two_lies_between_their_curves() -> None:
    """Weights that just do not fit a cache any more are slower, by degrees."""
    rates = ProductRates((1e6, 1e8), (Curve((1.0,), (1.0,)), Curve((1.0,), (3.0,))))
    sets = (1e5, 1e6, 1e7, 1e8, 1e9)
    assert [rates.seconds_per_weight(1, size) for size in sets] == pytest.approx([1, 1, 2, 3, 3])


def test_a_processor_adds_up_what_was_measured() -> None:
    """A step is its products, its attention, its operators and its sequences; the parts sum to the whole."""
    step = processor().step(SHAPE, INT8, StepLoad(4, 100, 1, 4))
    products = (SHAPE.layer_weights + SHAPE.lm_head.weights) * 1e-10
    cache = 4 * 101 * INT8.cache_bytes_per_token(SHAPE) * 1e-10
    operations = 4 * 4 * 101 * SHAPE.layers * SHAPE.heads * SHAPE.head_dim * 1e-12
    expected = products + cache + operations + 41 * 1e-5 + 1e-4 + 4e-5
    assert step.seconds == pytest.approx(expected)
    assert sum(step.parts.values()) == pytest.approx(step.seconds)


def test_only_the_last_chunk_of_a_prompt_has_logits() -> None:
    """Chunks before it stop at the last layer's attention and never touch the LM head."""
    machine = processor()
    whole = prefill_seconds(machine, SHAPE, INT8, 64, 64).seconds
    first = machine.step(SHAPE, INT8, StepLoad(1, 0, 64, 0)).seconds
    last_layer = sum(product.weights for product in SHAPE.layer_products[1:])
    assert whole - first == pytest.approx((SHAPE.lm_head.weights + last_layer) * 1e-10)


def test_the_arithmetic_imports_nothing_heavy() -> None:
    """The launcher's gate must not pay for numpy, ONNX Runtime or tokenizers."""
    code = (
        "import sys, fathom_server.sizing.memory, fathom_server.sizing.roofline, fathom_server.sizing.machine_memory\n"
        "print([name for name in ('numpy', 'onnxruntime', 'tokenizers', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_serving_adds_to_a_prompts_first_chunk_and_to_every_token() -> None:
    """What a client sees is the kernels' time and a share, a term a token, and once what a request takes."""
    bare, served = processor(), ServedProcessor(processor())
    decode = StepLoad(4, 100, 1, 4)
    assert served.step(SHAPE, INT8, decode).seconds == pytest.approx(
        SHARE * bare.step(SHAPE, INT8, decode).seconds + 4 * TOKEN_S
    )
    for load, beside in ((StepLoad(1, 0, 64, 0), REQUEST_S), (StepLoad(1, 64, 64, 1), TOKEN_S)):
        kernels = SHARE * bare.step(SHAPE, INT8, load).seconds
        assert served.step(SHAPE, INT8, load).seconds == pytest.approx(kernels + beside)
    step = served.step(SHAPE, INT8, decode)
    assert sum(step.parts.values()) == pytest.approx(step.seconds)
