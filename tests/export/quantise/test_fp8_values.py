"""fp8 e4m3: scales, codes and ranges."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from fathom_export.quantise.activations import BINS_PER_OCTAVE, ActivationStatistics
from fathom_export.quantise.fp8 import (
    E4M3_MAX,
    HEADROOM,
    activation_scale,
    codes,
    column_scales,
    rounded,
    storable_scale,
)

VALUES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
    elements=st.floats(-(2.0**15), 2.0**15, width=32, allow_subnormal=False),
)


@settings(max_examples=200, deadline=None)
@given(largest=st.floats(0, 1e6))
def test_a_scale_is_a_float16_that_the_range_fits_into(largest: float) -> None:
    """The graph's float16 scale loses no digit of it, and the largest magnitude does not saturate."""
    scale = storable_scale(largest)
    assert np.float32(np.float16(scale)) == scale
    assert largest <= float(scale) * E4M3_MAX


@settings(max_examples=100, deadline=None)
@given(matrix=VALUES)
def test_weights_lose_a_sixteenth_at_most(matrix) -> None:
    """e4m3 has three bits of fraction: half a step is a sixteenth of a value, or half of the smallest subnormal."""
    scales = column_scales(matrix)
    error = np.abs(rounded(matrix, scales) - matrix)
    assert (error <= np.maximum(np.abs(matrix) / 16, scales * 2.0**-10) * 1.0001).all()


@settings(max_examples=50, deadline=None)
@given(values=VALUES, scale=st.floats(2.0**-10, 2.0**6))
def test_codes_are_those_of_ml_dtypes_and_of_onnxruntime(values, scale: float) -> None:
    """QuantizeLinear of ONNX Runtime gives the same bits, saturated ones too."""
    step = np.float32(np.float16(scale))
    zero = onnx.numpy_helper.from_array(np.zeros((), ml_dtypes.float8_e4m3fn), "zero")
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(values.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(values.shape))],
        [onnx.numpy_helper.from_array(np.array(step), "scale"), zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(["y"], {"x": values})[0], rounded(values, step))
    assert np.isfinite(codes(values, step).astype(np.float32)).all()


def test_values_that_were_never_seen_have_room_where_small_ones_pay_nothing() -> None:
    """A range eight times as wide as calibration saw keeps every digit of ordinary activations, and of larger ones.

    Where a few values are thousands of times as large as the rest, there is no room to give.
    """
    random = np.random.default_rng(0)
    statistics = ActivationStatistics(64)
    seen = random.normal(size=(512, 64)).astype(np.float32)
    statistics.add(seen)
    scale = activation_scale(statistics, "max")
    assert scale == storable_scale(HEADROOM * np.abs(seen).max())
    unseen = (6 * random.normal(size=(512, 64))).astype(np.float32)
    for values in (seen, unseen):
        error = np.linalg.norm(rounded(values, scale) - values) / np.linalg.norm(values)
        assert error < 0.03
    without = rounded(unseen, storable_scale(np.abs(seen).max()))
    assert np.linalg.norm(without - unseen) / np.linalg.norm(unseen) > 0.1
    massive = ActivationStatistics(64)
    seen[0, 0] = 2.0**15
    massive.add(seen)
    assert activation_scale(massive, "max") == storable_scale(2.0**15)


@settings(max_examples=60, deadline=None)
@given(values=VALUES)
def test_the_methods_ranges_lie_within_the_largest(values) -> None:
    """``max`` covers every value; the others never take more than it."""
    statistics = ActivationStatistics(values.shape[1])
    statistics.add(values)
    largest = activation_scale(statistics, "max")
    assert float(largest) * E4M3_MAX >= np.abs(values).max()
    assert activation_scale(statistics, "percentile") <= largest
    assert activation_scale(statistics, "mse") <= largest


def test_the_least_squared_error_clips_a_lone_outlier_of_no_weight() -> None:
    """Many values that fp8 could only hold as subnormals beside one outlier: ``mse`` gives the outlier up."""
    statistics = ActivationStatistics(1)
    many = np.random.default_rng(0).normal(0, 1e-3, (2_000_000, 1)).astype(np.float32)
    statistics.add(many)
    statistics.add(np.array([[40.0]], np.float32))
    scales = {method: activation_scale(statistics, method) for method in ("max", "percentile", "mse")}
    error = {
        method: np.square(rounded(many, scale) - many).sum() + np.square(min(0.0, scale * E4M3_MAX - 40))
        for method, scale in scales.items()
    }
    assert error["mse"] <= error["max"]
    assert scales["percentile"] < scales["max"]


@settings(max_examples=50, deadline=None)
@given(values=VALUES, split=st.integers(0, 40))
def test_statistics_do_not_depend_on_how_the_text_is_cut(values, split: int) -> None:
    """Two parts one after the other give what the whole gives."""
    whole, parts = ActivationStatistics(values.shape[1]), ActivationStatistics(values.shape[1])
    whole.add(values)
    parts.add(values[:split])
    parts.add(values[split:])
    assert (whole.largest, whole.rows) == (parts.largest, parts.rows)
    np.testing.assert_array_equal(whole.counts, parts.counts)
    np.testing.assert_allclose(whole.norms(), np.linalg.norm(values.astype(np.float64), axis=0), rtol=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_percentile_is_at_most_one_bin_too_large(share: float) -> None:
    """Against numpy's own percentile of the magnitudes."""
    values = np.random.default_rng(2).normal(0, 3, (5000, 4)).astype(np.float32)
    statistics = ActivationStatistics(4)
    statistics.add(values)
    exact = np.quantile(np.abs(values), share)
    assert exact * 0.999 <= statistics.percentile(share) <= exact * 2 ** (1.01 / BINS_PER_OCTAVE)
