"""Linear refuses what it cannot compute, and names it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.server.native.linear_case import Case, model, rows_of, run, session


@pytest.mark.parametrize(
    ("case", "overrides", "says"),
    [
        (Case(32, 16), {"K": None}, "attribute K is missing"),
        (Case(32, 16), {"N": 0}, "both must be positive"),
        (Case(32, 16), {"bits": 3}, "bits is 3"),
        (Case(32, 16), {"bits": 4}, "block_size 0"),
        (Case(32, 16, bits=4, block=32), {"block_size": 24}, "block_size is 24"),
        (Case(32, 16, bits=4, block=32), {"block_size": 8}, "block_size is 8"),
        (Case(32, 16), {"activation": "relu6"}, "activation is 'relu6'"),
        (Case(32, 16), {"K": 31}, "weight has shape [32, 16]"),
        (Case(32, 16), {"K": 16, "N": 32}, "weight has shape [32, 16]"),
        (Case(32, 16), {"block_size": 32}, "weight must be uint8"),
        (Case(32, 16, bits=4, block=32), {"block_size": 16}, "scale has shape"),
        (Case(32, 16, bits=4, block=32), {"block_size": 0, "bits": 8}, "weight must be int8"),
        (Case(32, 16, bits=4, block=16, zero_points=True), {"block_size": 32}, "scale has shape"),
        (Case(70000, 1), {}, "at most 65536"),
    ],
    ids=str,
)
def test_a_wrong_node_is_refused_by_name(case: Case, overrides: dict[str, Any], says: str) -> None:
    """A session over a node that cannot be is not made, and the error says what is wrong with it."""
    with pytest.raises(Exception, match=r"fathom\.Linear") as refused:
        session(model(case, **overrides))
    assert says in str(refused.value)


def weightless(graph: onnx.GraphProto) -> None:
    """The weight as a graph input."""
    weight = graph.initializer.pop(0)
    graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))


def half_gated(graph: onnx.GraphProto) -> None:
    """An up_scale without an up_weight."""
    graph.node[0].input.extend(["", "", "", graph.node[0].input[4]])


def zero_pointed(graph: onnx.GraphProto) -> None:
    """Zero points where a column has one scale."""
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(16, np.uint8), "zeros"))
    graph.node[0].input.append("zeros")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (weightless, "weight must be an initializer"),
        (half_gated, "up_scale is given without up_weight"),
        (zero_pointed, "zero_points is given with block_size 0"),
    ],
)
def test_inputs_that_do_not_go_together_are_refused(spoil: Callable[[onnx.GraphProto], None], says: str) -> None:
    """What the shape of the graph gets wrong is named as well."""
    made = onnx.load_from_string(model(Case(32, 16)))
    spoil(made.graph)
    with pytest.raises(Exception, match=r"fathom\.Linear") as refused:
        session(made.SerializeToString())
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (((3, 31), (3, 31)), "x has shape [3, 31]"),
        (((3, 1, 32), (3, 32)), "x has shape [3, 1, 32]"),
        (((3, 32), (2, 32)), "delta has shape [2, 32]"),
    ],
)
def test_wrong_rows_fail_the_run_and_name_themselves(shapes: Sequence[tuple[int, ...]], says: str) -> None:
    """A run over tensors that do not fit ends with an error; the session goes on."""
    case = Case(32, 16, delta=True)
    made = session(model(case))
    with pytest.raises(Exception, match=r"fathom\.Linear") as refused:
        run(made, *(np.zeros(shape, np.float32) for shape in shapes))
    assert says in str(refused.value)
    assert run(made, *rows_of(case, 2))[0].shape == (2, 16)
