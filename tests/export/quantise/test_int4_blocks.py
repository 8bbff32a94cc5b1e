"""Weights in blocks of 4 bits: what they stand for, and how ONNX Runtime reads them."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from fathom_export.quantise.int4 import block_count, dequantised, half_quadratic, packed, round_to_nearest

MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=150),
    elements=st.floats(-1000, 1000, width=32, allow_subnormal=False),
)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [32, 128])
@settings(max_examples=60, deadline=None)
@given(matrix=MATRICES)
def test_rounding_stays_within_the_formats_bounds(matrix, block_size: int, bits: int) -> None:
    """Codes fill the range; a weight is off by half a step at most, or a whole one at the end with one code less."""
    blocks = round_to_nearest(matrix, block_size, bits)
    assert blocks.codes.max(initial=0) < 1 << bits
    assert blocks.codes.shape == (len(matrix), block_count(matrix.shape[1], block_size), block_size)
    values = dequantised(blocks, matrix.shape[1], bits)
    steps = np.repeat(np.abs(blocks.scales), block_size, axis=1)[:, : matrix.shape[1]]
    clipped = np.isclose(np.abs(values), steps * ((1 << (bits - 1)) - 1), rtol=1e-5)
    bound = np.where(clipped, 1.0, 0.5) * steps
    assert (np.abs(values - matrix) <= bound * 1.001 + 1e-30).all()


@settings(max_examples=30, deadline=None)
@given(matrix=MATRICES)
def test_the_largest_magnitude_of_a_block_is_kept(matrix) -> None:
    """The weight that sets a block's scale comes back as it was."""
    values = dequantised(round_to_nearest(matrix, 32, 4), matrix.shape[1], 4)
    for first in range(0, matrix.shape[1], 32):
        block, again = matrix[:, first : first + 32], values[:, first : first + 32]
        places = np.abs(block).argmax(axis=1)[:, np.newaxis]
        np.testing.assert_allclose(
            np.take_along_axis(again, places, 1), np.take_along_axis(block, places, 1), rtol=1e-6
        )


@pytest.mark.parametrize("inputs", [32, 93, 128, 200])
@pytest.mark.parametrize(("block_size", "bits"), [(32, 4), (128, 4), (32, 8), (128, 8)])
@pytest.mark.parametrize("solver", ["rtn", "hqq"])
def test_onnxruntime_reads_the_blocks_as_they_are_meant(solver: str, block_size: int, bits: int, inputs: int) -> None:
    """MatMulNBits of the identity, in float32, gives the dequantised matrix: layout of codes and zero points agree."""
    matrix = np.random.default_rng(inputs).normal(0.02, 0.1, (24, inputs)).astype(np.float32)
    solve = half_quadratic if solver == "hqq" else round_to_nearest
    blocks = solve(matrix, block_size, bits)
    codes = packed(blocks.codes) if bits == 4 else blocks.codes
    names = ["x", "codes", "scales"]
    tensors = {"codes": codes, "scales": blocks.scales}
    if blocks.zero_points is not None:
        names.append("zero_points")
        tensors["zero_points"] = packed(blocks.zero_points) if bits == 4 else blocks.zero_points
    node = helper.make_node(
        "MatMulNBits", names, ["y"], domain="com.microsoft", K=inputs, N=24, bits=bits, block_size=block_size
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 24])],
        [onnx.numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    read = session.run(["y"], {"x": np.eye(inputs, dtype=np.float32)})[0].T
    np.testing.assert_allclose(read, dequantised(blocks, inputs, bits), atol=1e-6)


@pytest.mark.parametrize("block_size", [32, 128])
def test_hqq_is_closer_to_weights_with_outliers_than_rounding(block_size: int) -> None:
    """On heavy-tailed weights the mean error of HQQ is below that of round to nearest."""
    matrix = np.random.default_rng(1).standard_t(4, (64, 512)).astype(np.float32)
    errors = {
        solve.__name__: np.abs(dequantised(solve(matrix, block_size, 4), 512, 4) - matrix).mean()
        for solve in (round_to_nearest, half_quadratic)
    }
    assert errors["half_quadratic"] < errors["round_to_nearest"]


def test_blocks_of_zeros_stay_zeros() -> None:
    """Neither method makes a value that is not a number of a block that holds nothing."""
    matrix = np.zeros((3, 70), np.float32)
    for solve in (round_to_nearest, half_quadratic):
        np.testing.assert_array_equal(dequantised(solve(matrix, 32, 4), 70, 4), matrix)


def test_an_odd_number_of_codes_is_packed() -> None:
    """The first of two codes is in the low half; a last one alone leaves the high half empty."""
    np.testing.assert_array_equal(packed(np.array([[1, 2, 15]], np.uint8)), [[0x21, 0x0F]])
