"""Linear: RMS norm, quantised product, bias, gate and activation in one operator, at every instruction set."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.server.native.linear_case import LEVELS, Case, available_levels, model, reference, rows_of, run, session

from fathom_server.native.library import ISA

CASES = [
    Case(96, 64),
    Case(1, 1, bias=True),
    Case(7, 33, norm=True, delta=True, residual=True),
    Case(130, 49, bias=True, activation="gelu"),
    Case(960, 100, norm=True, gated=True, activation="silu", bias=True, delta=True, residual=True),
    Case(2561, 40),
    Case(128, 32, bits=4, block=32),
    Case(100, 17, bits=4, block=16, zero_points=True, bias=True),
    Case(333, 70, bits=4, block=128, norm=True, delta=True, residual=True),
    Case(333, 70, bits=4, block=128, zero_points=True, gated=True, activation="gelu_tanh"),
    Case(1100, 45, bits=4, block=1024, zero_points=True),
    Case(64, 48, bits=8, block=32),
    Case(99, 31, bits=8, block=16, zero_points=True, gated=True, activation="silu", norm=True),
    Case(515, 65, bits=8, block=256, delta=True),
]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this processor has, forced."""
    monkeypatch.setenv(ISA, request.param)
    if request.param not in available_levels():
        pytest.skip(f"this processor lacks {request.param}")
    return str(request.param)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_the_result_is_that_of_the_same_arithmetic_in_numpy(case: Case, rows: int, level: str) -> None:
    """Sums, norm, quantisation, product, bias, activation and gate agree with numpy at every instruction set."""
    inputs = rows_of(case, rows)
    results = run(session(model(case)), *inputs)
    y, residual = reference(case, *inputs)
    # a norm's last bit may move a value that lies between two codes to the other one: a step of one weight
    spread = np.abs(y).max(axis=1, keepdims=True) + 1e-12
    close = np.abs(results[0] - y) <= (4e-3 if case.norm else 2e-6) * spread
    assert close.all()
    assert np.mean(np.abs(results[0] - y) <= 3e-6 * spread) > 0.9
    if case.residual:
        np.testing.assert_array_equal(results[1], residual)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_instruction_set_gives_the_same_bits(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model moved to an older processor answers the same."""
    inputs = rows_of(case, 23)
    results = []
    for level in available_levels():
        monkeypatch.setenv(ISA, level)
        results.append(run(session(model(case)), *inputs))
    for other in results[1:]:
        for left, right in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_row_gives_the_same_bits_alone_and_in_any_batch(case: Case, level: str) -> None:
    """No row's result depends on how many rows there are, on where it stands, or on its neighbours."""
    counts = [1, 2, 3, 7, 12, 13, 16, 33, 193, 600] if level.startswith("avx512") else [1, 2, 7, 16, 33]
    inputs = rows_of(case, max(counts))
    made = session(model(case))
    whole = run(made, *inputs)
    for count, start in itertools.product(counts, (0, 5)):
        part = [each[start : start + count] for each in inputs]
        for left, right in zip(run(made, *part), whole, strict=True):
            np.testing.assert_array_equal(left, right[start : start + count])


def test_no_rows_are_no_rows(level: str) -> None:
    """A step may be empty."""
    y, residual = run(session(model(Case(20, 24, residual=True))), np.zeros((0, 20), np.float32))
    assert y.shape == (0, 24)
    assert residual.shape == (0, 20)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_threads_do_not_change_a_bit(case: Case) -> None:
    """One thread and four compute the same."""
    inputs = rows_of(case, 50)
    for one, four in zip(run(session(model(case), 1), *inputs), run(session(model(case), 4), *inputs), strict=True):
        np.testing.assert_array_equal(one, four)


def test_it_computes_what_the_stock_int8_graph_does() -> None:
    """With one scale a column, codes, sums and the order of the scales are those of MatMulIntegerToFloat's graph."""
    case = Case(960, 320)
    matrix = case.matrix("weight")
    x = rows_of(case, 9)[0]
    initializers = {
        "w": matrix.codes,
        "ws": matrix.scales,
        "axis": np.array([1], np.int64),
        "floor": np.array(1e-30, np.float32),
        "step": np.array(1 / 127, np.float32),
        "one": np.array(1, np.float32),
        "zero": np.array(128, np.uint8),
        "zeros": np.full((len(x), 1), 128, np.uint8),
    }
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("ReduceMax", ["a", "axis"], ["m"], keepdims=1),
        helper.make_node("Max", ["m", "floor"], ["f"]),
        helper.make_node("Mul", ["f", "step"], ["s"]),
        helper.make_node("QuantizeLinear", ["x", "s", "zeros"], ["q"], axis=1, block_size=case.K),
        helper.make_node("MatMulIntegerToFloat", ["q", "w", "one", "ws", "zero"], ["p"], domain="com.microsoft"),
        helper.make_node("Mul", ["p", "s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stock",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", case.K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", case.N])],
        [onnx.numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    stock = session(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    np.testing.assert_array_equal(run(session(model(case)), x)[0], run(stock, x)[0])


@pytest.mark.parametrize("block", [32, 128])
def test_it_agrees_with_matmul_nbits(block: int) -> None:
    """The layout in blocks is that of com.microsoft.MatMulNBits, zero points included."""
    for bits, zero_points in itertools.product((4, 8), (False, True)):
        case = Case(333, 70, bits=bits, block=block, zero_points=zero_points)
        matrix = case.matrix("weight")
        x = rows_of(case, 4)[0]
        tensors = {"w": matrix.codes, "s": matrix.scales.reshape(-1)}
        if matrix.zero_points is not None:
            tensors["z"] = matrix.zero_points.reshape(-1)
        node = helper.make_node(
            "MatMulNBits",
            ["x", *tensors],
            ["y"],
            domain="com.microsoft",
            K=case.K,
            N=case.N,
            bits=bits,
            block_size=block,
        )
        graph = helper.make_graph(
            [node],
            "stock",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", case.K])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", case.N])],
            [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        stock = session(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
        exact, ours = run(stock, x)[0], run(session(model(case)), x)[0]
        for left, right in zip(ours, exact, strict=True):
            assert np.dot(left, right) / np.linalg.norm(left) / np.linalg.norm(right) > 0.9999


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "case",
    [Case(100, 40), Case(100, 40, norm=True), Case(100, 40, bits=4, block=32, gated=True, activation="silu")],
    ids=str,
)
def test_a_row_that_is_not_finite_gives_nan_and_leaves_others_alone(value: float, case: Case, level: str) -> None:
    """A broken model is noticed, and its neighbours' answers stay what they were."""
    made = session(model(case))
    x = rows_of(case, 20)[0]
    before = run(made, x)[0]
    x[7, 63] = value
    after = run(made, x)[0]
    assert np.isnan(after[7]).all()
    np.testing.assert_array_equal(np.delete(after, 7, axis=0), np.delete(before, 7, axis=0))


def test_a_norm_beyond_float32_is_noticed(level: str) -> None:
    """Finite values whose squares are not would otherwise pass for a row of zeros."""
    case = Case(64, 16, norm=True)
    assert np.isnan(run(session(model(case)), np.full((2, 64), 1e25, np.float32))[0]).all()


def test_rows_of_zeros_and_of_tiny_values_give_no_nan(level: str) -> None:
    """The scale has a floor."""
    case = Case(64, 16)
    x = np.zeros((3, 64), np.float32)
    x[1] = 1e-38
    x[2] = 1e-44
    np.testing.assert_array_equal(run(session(model(case)), x)[0], np.zeros((3, 16), np.float32))
