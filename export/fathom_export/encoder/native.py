"""An int8 encoder's second graph: Fathom's ``Linear`` in place of the stock operators of each product.

One operator quantises the rows, multiplies, adds the bias and computes GELU, where the stock graph takes eleven. It is
served where the operator library is built, over the very weights of the stock graph beside it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from fathom_export.encoder.quantise import Rewriter
from fathom_export.quantise.products import sizes
from fathom_server.native.library import DOMAIN

_VERSION: Final = 1
_GELU: Final = "Gelu"


def write_native(
    float32: onnx.ModelProto, weights: Mapping[str, ir.TensorProtocol], stock: Path, destination: Path
) -> None:
    """Write the graph of a float32 encoder over the weights beside ``stock``, the file of its int8 form."""
    graph = float32.graph
    rewriter = _NativeRewriter(graph, weights)
    nodes = [new for node in graph.node for new in rewriter.rewrite(node)]
    own = rewriter.tensors(nodes)
    there = {tensor.name: tensor for tensor in onnx.load(stock, load_external_data=False).graph.initializer}
    tensors = [there.get(name) or ir.serde.serialize_tensor(tensor) for name, tensor in own.items()]
    model = helper.make_model(
        helper.make_graph(nodes, graph.name, graph.input, graph.output, tensors),
        opset_imports=[*float32.opset_import, helper.make_opsetid(DOMAIN, _VERSION)],
        ir_version=float32.ir_version,
        producer_name=float32.producer_name,
    )
    destination.write_bytes(model.SerializeToString())


class _NativeRewriter(Rewriter):
    """Turn products, with the bias and the GELU behind them, into one node each; embeddings as in the stock graph."""

    def __init__(self, graph: onnx.GraphProto, weights: Mapping[str, ir.TensorProtocol]) -> None:
        super().__init__(weights, frozenset())
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {output.name for output in graph.output}
        self._absorbed: set[str] = set()
        self._flat: dict[str, str] = {}
        self._shapes: set[str] = set()

    def rewrite(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The nodes that stand for a node."""
        if node.output[0] not in self._absorbed:
            yield from super().rewrite(node)

    def _product(self, node: onnx.NodeProto, matrix: ir.TensorProtocol) -> Iterator[onnx.NodeProto]:
        inputs, outputs = sizes(matrix)
        source, result, bias, activation = node.input[0], node.output[0], "", "none"
        behind = self._only_reader(result, "Add")
        other = "" if behind is None else next((str(name) for name in behind.input if name != result), "")
        if behind is not None and other in self._weights and sizes(self._weights[other]) == (outputs,):
            bias, result = other, behind.output[0]
            self._absorbed.add(result)
        behind = self._only_reader(result, _GELU)
        if behind is not None:
            attributes = {item.name: helper.get_attribute_value(item) for item in behind.attribute}
            activation = "gelu_tanh" if attributes.get("approximate") == b"tanh" else "gelu"
            result = behind.output[0]
            self._absorbed.add(result)
        quantised, scales = self._quantised_weights(matrix, axis=0)
        yield from self._flattened(source, inputs)
        yield helper.make_node(
            "Linear",
            [self._flat[source], "", "", quantised, scales, "", bias],
            [f"{result}.rows"],
            name=f"{result}.linear",
            domain=DOMAIN,
            bits=8,
            block_size=0,
            K=inputs,
            N=outputs,
            activation=activation,
            epsilon=0.0,
        )
        self._flat[result] = f"{result}.rows"
        yield from self._shape(source, outputs)
        yield helper.make_node("Reshape", [f"{result}.rows", f"{source}.shape_{outputs}"], [result])

    def _only_reader(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The node of a kind that alone reads a value."""
        readers = [] if name in self._outputs else self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None

    def _flattened(self, source: str, columns: int) -> Iterator[onnx.NodeProto]:
        """[..., columns] as rows [tokens, columns], once; what a product gave is there as such."""
        if source not in self._flat:
            rows = self._constant(f"native.rows_{columns}", np.array([-1, columns], np.int64))
            yield helper.make_node("Reshape", [source, rows], [f"{source}.flat"])
            self._flat[source] = f"{source}.flat"

    def _shape(self, source: str, columns: int) -> Iterator[onnx.NodeProto]:
        """The shape of a source with another last dimension, once."""
        if f"{source}.leading" not in self._shapes:
            self._shapes.add(f"{source}.leading")
            yield helper.make_node("Shape", [source], [f"{source}.leading"], start=0, end=-1)
        if f"{source}.shape_{columns}" not in self._shapes:
            self._shapes.add(f"{source}.shape_{columns}")
            last = self._constant(f"native.columns_{columns}", np.array([columns], np.int64))
            yield helper.make_node("Concat", [f"{source}.leading", last], [f"{source}.shape_{columns}"], axis=0)
