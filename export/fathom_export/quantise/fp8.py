"""fp8 e4m3: scales, codes, and the QuantizeLinear/DequantizeLinear pairs that TensorRT recognises.

TensorRT takes zero points of 0 only, one scale for a tensor of activations, one scale a column for constant weights,
and weights that are stored as fp8 in front of their DequantizeLinear.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fathom_export.quantise.activations import ActivationStatistics, bin_edges
from fathom_export.quantise.derived import derived_columns, derived_matrix
from fathom_export.quantise.products import add_initializer, products, sizes, stored

E4M3_MAX: Final = 448.0
HEADROOM: Final = 8.0
"""How far beyond the largest value seen the method ``max`` reaches, where small values allow it."""
PERCENTILE: Final = 0.99999
"""Share of a tensor's values that the method ``percentile`` keeps within range."""

_SMALLEST_SCALE: Final = float(np.finfo(np.float16).tiny)
"""Scales are stored in float16; below its normal numbers they would lose their digits."""
_SMALLEST_NORMAL: Final = 2.0**-6
_SMALL: Final = 0.1
"""Share of values that may lose digits to the headroom."""
_CANDIDATES_PER_OCTAVE: Final = 8
_CANDIDATE_OCTAVES: Final = 6

Method = Literal["max", "percentile", "mse"]


def storable_scale(largest: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The smallest float16 scale at which magnitudes up to ``largest`` fit into ±448; of the same shape, float32."""
    exact = np.maximum(np.asarray(largest, np.float64) / E4M3_MAX, _SMALLEST_SCALE)
    scale = exact.astype(np.float16)
    return np.where(scale.astype(np.float64) < exact, np.nextafter(scale, np.float16(np.inf)), scale).astype(np.float32)


def codes(values: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Values / scale rounded to e4m3, ties to even, saturated at ±448, as QuantizeLinear does."""
    return (values / scale).clip(-E4M3_MAX, E4M3_MAX).astype(ml_dtypes.float8_e4m3fn)


def rounded(values: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What is left of values after a pass through fp8, float32."""
    return np.asarray(codes(values, scale).astype(np.float32) * scale, dtype=np.float32)


def column_scales(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A scale for each column of [inputs, outputs], float32 [outputs], each a float16 number."""
    return storable_scale(np.abs(matrix).max(axis=0))


def activation_scale(statistics: ActivationStatistics, method: Method) -> np.float32:
    """The scale of a tensor by its statistics.

    ``max`` keeps every value seen within range, and up to ``HEADROOM`` times it; ``percentile`` all but one in a
    hundred thousand; ``mse`` takes the scale of the least mean squared error over the histogram, which weighs what
    clipping costs against what rounding costs.
    """
    if method == "max":
        largest = statistics.largest * _headroom(statistics)
    elif method == "percentile":
        largest = statistics.percentile(PERCENTILE)
    else:
        largest = _least_squares_range(statistics)
    return np.float32(storable_scale(largest))


def insert_fp8(graph: ir.Graph, scales: Mapping[str, np.float32], skipped: Collection[str]) -> None:
    """Put Q/DQ pairs around every product but the skipped ones, in place; the graph is float32 still.

    ``scales`` has the scale of each activation by its name. Products that share an input share its pair, and the
    weights are computed as they are written.
    """
    zero = add_initializer(graph, ir.tensor(np.zeros((), ml_dtypes.float8_e4m3fn), name="fp8.zero_point"))
    rounded_activations: dict[str, ir.Value] = {}
    for product in list(products(graph)):
        if product.name in skipped:
            continue
        source = str(product.activations.name)
        if source not in rounded_activations:
            scale = add_initializer(graph, ir.tensor(np.array(scales[source], np.float32), name=f"{source}.fp8_scale"))
            quantised = _node("QuantizeLinear", f"{source}.fp8", [product.activations, scale, zero])
            restored = _node("DequantizeLinear", f"{source}.fp8_restored", [quantised.outputs[0], scale, zero])
            graph.insert_before(product.node, [quantised, restored])
            rounded_activations[source] = restored.outputs[0]
        product.node.replace_input_with(0, rounded_activations[source])
        product.node.replace_input_with(1, _fp8_matrix(graph, product.node, product.matrix))


def _fp8_matrix(graph: ir.Graph, before: ir.Node, matrix: ir.Value) -> ir.Value:
    """The matrix in fp8 with a scale a column, and its DequantizeLinear in front of a node."""
    tensor, name = stored(matrix), str(matrix.name)
    outputs = sizes(tensor)[1]
    scales = add_initializer(graph, derived_columns(tensor, column_scales, ir.DataType.FLOAT, f"{name}.fp8_scale"))
    quantised = add_initializer(
        graph,
        derived_matrix(
            tensor,
            lambda values: codes(values, column_scales(values)),
            ir.DataType.FLOAT8E4M3FN,
            f"{name}.fp8",
        ),
    )
    zeros_name = f"fp8.zero_points_{outputs}"
    zeros = graph.initializers.get(zeros_name)
    if zeros is None:
        zeros = add_initializer(graph, ir.tensor(np.zeros(outputs, ml_dtypes.float8_e4m3fn), name=zeros_name))
    restored = _node("DequantizeLinear", f"{name}.fp8_restored", [quantised, scales, zeros], axis=1)
    graph.insert_before(before, restored)
    if len(list(matrix.uses())) == 1:  # the product's own, which is about to go
        del graph.initializers[name]
    return restored.outputs[0]


def _node(op_type: str, name: str, inputs: list[ir.Value], **attributes: int) -> ir.Node:
    return ir.node(op_type, inputs, attributes, outputs=[ir.Value(name=name)], name=name)


def _headroom(statistics: ActivationStatistics) -> float:
    """How many times the largest value seen fits into the range, at no cost to nine tenths of the values.

    Text in use is not the calibration text: what is larger than all that was seen would saturate. In one of our own
    models that cost 24 % of a layer's output, and the range eight times as wide 0: e4m3 keeps its three digits down to
    2^-6, so a wider range costs only those that fall below.
    """
    if statistics.largest == 0:
        return 1.0
    finest = statistics.largest / E4M3_MAX * _SMALLEST_NORMAL
    return min(HEADROOM, max(1.0, statistics.percentile(_SMALL) / finest))


def _least_squares_range(statistics: ActivationStatistics) -> float:
    """The largest magnitude within range that gives the least squared error, among eighths of octaves below the max."""
    if statistics.largest == 0:
        return 0.0
    edges = bin_edges()
    used = statistics.counts > 0
    centres = np.sqrt(edges[:-1] * edges[1:])[used].astype(np.float32)
    counts = statistics.counts[used]
    steps = np.arange(_CANDIDATES_PER_OCTAVE * _CANDIDATE_OCTAVES)
    candidates = statistics.largest * np.exp2(-steps / _CANDIDATES_PER_OCTAVE)
    errors = [
        float((counts * np.square(rounded(centres, storable_scale(candidate)) - centres, dtype=np.float64)).sum())
        for candidate in candidates
    ]
    return float(candidates[int(np.argmin(errors))])
