"""The matrix products of a graph that is not yet saved, and the change of their weights."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Product:
    """A MatMul with a constant matrix: activations [..., inputs] × matrix [inputs, outputs]."""

    node: ir.Node
    activations: ir.Value
    matrix: ir.Value

    @property
    def name(self) -> str:
        """The node's name, the same in every precision."""
        return str(self.node.name)

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs of the layer."""
        inputs, outputs = sizes(stored(self.matrix))
        return inputs, outputs


def products(graph: ir.Graph) -> Iterator[Product]:
    """Every product of activations with a constant matrix, in the graph's order; the LM head is a Gemm and is none."""
    for node in graph:
        if node.op_type == "MatMul" and node.domain == "":
            activations, matrix = node.inputs
            if activations is None or matrix is None or not matrix.is_initializer():
                continue
            if len(sizes(stored(matrix))) == 2:
                yield Product(node, activations, matrix)


def stored(value: ir.Value) -> ir.TensorProtocol:
    """An initializer's tensor, perhaps not yet computed."""
    tensor = value.const_value
    if tensor is None:
        raise ValueError(f"{value.name} has no tensor")
    return tensor


def sizes(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """A tensor's shape."""
    return tuple(tensor.shape.numpy())


def replace_tensor(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Give an initializer another tensor of the same shape."""
    value.const_value = tensor
    value.type = ir.TensorType(tensor.dtype)


def add_initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """A new initializer."""
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(sizes(tensor)), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
