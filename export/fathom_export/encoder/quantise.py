"""int8 for an encoder: weights one scale a column, activations one scale a row, embeddings one scale a row.

A row is one token. onnxruntime's own ``quantize_dynamic`` takes one activation scale for the whole batch, so that a
text's embedding depends on its neighbours and on padding: with MiniLM a text of one word fell to cosine 0.959 beside
longer ones. In this form it is the same alone and in any company, at the same speed.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from fathom_export.decoder.graph_writer import GRAPH_DATA_SUFFIX
from fathom_export.quantise.derived import derived, derived_columns, derived_matrix, derived_rows
from fathom_export.quantise.products import sizes
from fathom_server.engine.settings import NATIVE_GRAPH_FILE

_MICROSOFT: Final = "com.microsoft"
_INT8_MAX: Final = 127
_ZERO_POINT: Final = 128
_GELU_ZERO_POINT: Final = 32
_GELU_MINIMUM: Final = 0.17
"""GELU gives nothing below −0.17 (erf and tanh alike), so its rows need few of the codes below zero."""
_UINT8_MAX: Final = 255
_SMALLEST_MAGNITUDE: Final = 1e-30
"""A row whose values are all below it is taken for zeros; without a floor its scale of 0 would make NaNs of them."""
_FEWEST_BYTES: Final = 1 << 10
"""Smaller tensors stay in the graph's own file."""
_FEWEST_WEIGHTS: Final = 1 << 16
"""Smaller embeddings (positions of a short model, token types) stay in float32: there is nothing to save."""


def quantise_to_int8(float32: Path, path: Path) -> None:
    """Quantise a graph file: every product of 3-D activations with a constant matrix, and every large embedding.

    The graph goes to ``path``, in another folder, its weights to ``path`` + ".data", one at a time, and beside them
    goes ``model.native.onnx``, which shares them.
    """
    from fathom_export.encoder.native import write_native

    model = onnx.load(float32, load_external_data=False)
    weights = read_weights(model.graph, float32.parent)
    gelus = {name for node in model.graph.node for name in node.output if node.op_type == "Gelu"}
    rewriter = Rewriter(weights, gelus)
    nodes = [new for node in model.graph.node for new in rewriter.rewrite(node)]
    quantised = with_weights(
        onnx.ModelProto(
            graph=onnx.GraphProto(
                node=nodes, name=model.graph.name, input=model.graph.input, output=model.graph.output
            ),
            ir_version=model.ir_version,
            producer_name=model.producer_name,
            opset_import=[*model.opset_import, helper.make_opsetid(_MICROSOFT, 1)],
        ),
        rewriter.tensors(nodes),
    )
    data = f"{path.name}{GRAPH_DATA_SUFFIX}"
    ir.save(quantised, path, external_data=data, size_threshold_bytes=_FEWEST_BYTES)
    write_native(model, weights, path, path.with_name(NATIVE_GRAPH_FILE))


def read_weights(graph: onnx.GraphProto, folder: Path) -> dict[str, ir.TensorProtocol]:
    """The initializers of a graph in a folder, by name; what it stores apart is mapped when it is asked for."""
    return {tensor.name: ir.serde.deserialize_tensor(tensor, folder) for tensor in graph.initializer}


def with_weights(model: onnx.ModelProto, tensors: Mapping[str, ir.TensorProtocol]) -> ir.Model:
    """A model without initializers together with its tensors, none of which is computed yet."""
    for name, tensor in tensors.items():
        place = model.graph.initializer.add(name=name, dims=sizes(tensor), data_type=int(tensor.dtype))
        place.data_location = TensorProto.EXTERNAL
        place.external_data.add(key="location", value="not yet written")
    whole = ir.serde.deserialize_model(model)
    for name, tensor in tensors.items():
        whole.graph.initializers[name].const_value = tensor
    return whole


class Rewriter:
    """Turn nodes into their int8 form, one at a time; products of one input share its quantised rows."""

    def __init__(self, weights: Mapping[str, ir.TensorProtocol], gelus: Set[str]) -> None:
        self._weights = weights
        self._gelus = gelus
        self._rows: dict[str, tuple[str, str]] = {}
        self._constants: dict[str, ir.TensorProtocol] = {}

    def tensors(self, nodes: Iterable[onnx.NodeProto]) -> dict[str, ir.TensorProtocol]:
        """The weights and constants that nodes read, by name."""
        used = {name for node in nodes for name in node.input}
        return {name: tensor for name, tensor in {**self._weights, **self._constants}.items() if name in used}

    def rewrite(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The nodes that stand for a node."""
        matrix = next((self._weights[name] for name in node.input if name in self._weights), None)
        if matrix is None or len(sizes(matrix)) != 2 or matrix.dtype != ir.DataType.FLOAT:
            yield node
        elif node.op_type == "MatMul" and node.input[1] == matrix.name:
            yield from self._product(node, matrix)
        elif node.op_type == "Gather" and node.input[0] == matrix.name and matrix.size >= _FEWEST_WEIGHTS:
            yield from self._embedding(node, matrix)
        else:
            yield node

    def _product(self, node: onnx.NodeProto, matrix: ir.TensorProtocol) -> Iterator[onnx.NodeProto]:
        source, output = node.input[0], node.output[0]
        if source not in self._rows:
            yield from self._quantised_rows(source, columns=sizes(matrix)[0])
        quantised, scale = self._rows[source]
        weights, scales = self._quantised_weights(matrix, axis=0)
        product = f"{output}.unscaled"
        one = self._constant("int8.one", np.array(1.0, np.float32))
        zero = _GELU_ZERO_POINT if source in self._gelus else _ZERO_POINT
        zero_point = self._constant(f"int8.zero_point_{zero}", np.array(zero, np.uint8))
        yield helper.make_node(
            "MatMulIntegerToFloat", [quantised, weights, one, scales, zero_point], [product], domain=_MICROSOFT
        )
        yield helper.make_node("Mul", [product, scale], [output])

    def _quantised_rows(self, source: str, columns: int) -> Iterator[onnx.NodeProto]:
        """Each row of [batch, sequence, columns] over its largest magnitude, uint8 around 128; of GELU around 32."""
        name = f"{source}.int8"
        scale, quantised = f"{name}.scale", f"{name}.rows"
        is_gelu = source in self._gelus
        zero = _GELU_ZERO_POINT if is_gelu else _ZERO_POINT
        codes = _UINT8_MAX - zero if is_gelu else _INT8_MAX
        smallest = _GELU_MINIMUM / zero * codes if is_gelu else _SMALLEST_MAGNITUDE
        axis = self._constant("int8.axis", np.array([2], np.int64))
        floor = self._constant(f"int8.smallest_magnitude_{zero}", np.array(smallest, np.float32))
        step = self._constant(f"int8.step_{zero}", np.array(1 / codes, np.float32))
        magnitudes = source if is_gelu else f"{name}.magnitudes"
        if not is_gelu:
            yield helper.make_node("Abs", [source], [magnitudes])
        yield helper.make_node("ReduceMax", [magnitudes, axis], [f"{name}.largest"], keepdims=1)
        yield helper.make_node("Max", [f"{name}.largest", floor], [f"{name}.floored"])
        yield helper.make_node("Mul", [f"{name}.floored", step], [scale])
        yield helper.make_node("Shape", [scale], [f"{name}.shape"])
        fill = helper.make_tensor("zero_point", TensorProto.UINT8, [1], [zero])
        yield helper.make_node("ConstantOfShape", [f"{name}.shape"], [f"{name}.zero_points"], value=fill)
        yield helper.make_node(
            "QuantizeLinear", [source, scale, f"{name}.zero_points"], [quantised], axis=2, block_size=columns
        )
        self._rows[source] = quantised, scale

    def _embedding(self, node: onnx.NodeProto, matrix: ir.TensorProtocol) -> Iterator[onnx.NodeProto]:
        ids, output = node.input[1], node.output[0]
        weights, scales = self._quantised_weights(matrix, axis=1)
        yield helper.make_node("Gather", [weights, ids], [f"{output}.int8"], axis=0)
        yield helper.make_node("Gather", [scales, ids], [f"{output}.scale"], axis=0)
        yield helper.make_node("Cast", [f"{output}.int8"], [f"{output}.unscaled"], to=TensorProto.FLOAT)
        yield helper.make_node("Mul", [f"{output}.unscaled", f"{output}.scale"], [output])

    def _quantised_weights(self, matrix: ir.TensorProtocol, axis: int) -> tuple[str, str]:
        """Names of a matrix in int8 and of its scales, one along ``axis``: [columns] for 0, [rows, 1] for 1."""
        name = f"{matrix.name}.int8"
        steps, reduced = (derived_matrix, derived_columns) if axis == 0 else (derived, derived_rows)
        self._constants[name] = steps(matrix, partial(_steps, axis=axis), ir.DataType.INT8, name)
        scales = f"{name}.scales"
        reduce = (lambda values: _scales(values, 0)[0]) if axis == 0 else (lambda values: _scales(values, 1))
        self._constants[scales] = reduced(matrix, reduce, ir.DataType.FLOAT, scales)
        return name, scales

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        if name not in self._constants:
            self._constants[name] = ir.tensor(value, name=name)
        return name


def _scales(values: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    """The largest magnitude along an axis over 127, that axis kept."""
    largest = np.maximum(np.abs(values).max(axis=axis, keepdims=True), _SMALLEST_MAGNITUDE)
    scales: npt.NDArray[np.float32] = largest.astype(np.float32) / np.float32(_INT8_MAX)
    return scales


def _steps(values: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.int8]:
    steps: npt.NDArray[np.int8] = np.rint(values / _scales(values, axis)).astype(np.int8)
    return steps
