"""int8 for an encoder: weights one scale a column, activations one scale a row, embeddings one scale a row.

A row is one token. onnxruntime's own ``quantize_dynamic`` takes one activation scale for the whole batch, so that a
text's embedding depends on its neighbours and on padding: with MiniLM a text of one word fell to cosine 0.959 beside
longer ones. In this form it is the same alone and in any company, at the same speed.
"""

from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from fathom_export.decoder.graph_writer import GRAPH_DATA_SUFFIX
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


def quantise_to_int8(path: Path) -> None:
    """Quantise a graph in place: every product of 3-D activations with a constant matrix, and every large embedding.

    Weights go to ``path`` + ".data", and beside the graph goes ``model.native.onnx``, which shares them.
    """
    from fathom_export.encoder.native import write_native

    model = onnx.load(path)
    float32 = onnx.ModelProto()
    float32.CopyFrom(model)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    rewriter = Rewriter(weights, {name for node in graph.node for name in node.output if node.op_type == "Gelu"})
    nodes = [new for node in graph.node for new in rewriter.rewrite(node)]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in (*weights.values(), *rewriter.constants.values()) if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    data = f"{path.name}{GRAPH_DATA_SUFFIX}"
    onnx.save(model, path, save_as_external_data=True, location=data, size_threshold=_FEWEST_BYTES)
    path.with_name(data).chmod(path.stat().st_mode & 0o777)  # onnx makes it for its owner alone
    write_native(float32, path, path.with_name(NATIVE_GRAPH_FILE))


class Rewriter:
    """Turn nodes into their int8 form, one at a time; products of one input share its quantised rows."""

    def __init__(self, weights: dict[str, TensorProto], gelus: Set[str]) -> None:
        self._weights = weights
        self._gelus = gelus
        self._rows: dict[str, tuple[str, str]] = {}
        self.constants: dict[str, TensorProto] = {}

    def rewrite(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The nodes that stand for a node."""
        matrix = next((self._weights[name] for name in node.input if name in self._weights), None)
        if matrix is None or len(matrix.dims) != 2 or matrix.data_type != TensorProto.FLOAT:
            yield node
        elif node.op_type == "MatMul" and node.input[1] == matrix.name:
            yield from self._product(node, matrix)
        elif node.op_type == "Gather" and node.input[0] == matrix.name and np.prod(matrix.dims) >= _FEWEST_WEIGHTS:
            yield from self._embedding(node, matrix)
        else:
            yield node

    def _product(self, node: onnx.NodeProto, matrix: TensorProto) -> Iterator[onnx.NodeProto]:
        source, output = node.input[0], node.output[0]
        if source not in self._rows:
            yield from self._quantised_rows(source, columns=matrix.dims[0])
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

    def _embedding(self, node: onnx.NodeProto, matrix: TensorProto) -> Iterator[onnx.NodeProto]:
        ids, output = node.input[1], node.output[0]
        weights, scales = self._quantised_weights(matrix, axis=1)
        yield helper.make_node("Gather", [weights, ids], [f"{output}.int8"], axis=0)
        yield helper.make_node("Gather", [scales, ids], [f"{output}.scale"], axis=0)
        yield helper.make_node("Cast", [f"{output}.int8"], [f"{output}.unscaled"], to=TensorProto.FLOAT)
        yield helper.make_node("Mul", [f"{output}.unscaled", f"{output}.scale"], [output])

    def _quantised_weights(self, matrix: TensorProto, axis: int) -> tuple[str, str]:
        """Names of a matrix in int8 and of its scales, one along ``axis``: [columns] for 0, [rows, 1] for 1."""
        name = f"{matrix.name}.int8"
        values = numpy_helper.to_array(matrix)
        largest = np.abs(values).max(axis=axis, keepdims=True)
        scales = np.maximum(largest, _SMALLEST_MAGNITUDE).astype(np.float32) / np.float32(_INT8_MAX)
        steps = np.clip(np.rint(values / scales), -_INT8_MAX, _INT8_MAX).astype(np.int8)
        self._constant(name, steps)
        return name, self._constant(f"{name}.scales", scales[0] if axis == 0 else scales)

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)
        return name
