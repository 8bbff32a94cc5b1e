"""A float32 graph in float16, for a network whose types are the graph's own.

Everything that leads to a matrix product is computed in float16. What comes after the last one (an encoder's pooling
and normalisation, with its constants near 1e-12) stays in float32, and so do the outputs, except a decoder's cache.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fathom_export.errors import PlanError

if TYPE_CHECKING:
    import onnx_ir as ir

_PRODUCTS: Final = ("MatMul", "Gemm", "Attention")
_CACHE_PREFIX: Final = "present."
_DATA_SUFFIX: Final = ".data"
_HALF_SUFFIX: Final = ".float16"


def is_float32(graph: Path) -> bool:
    """Whether a graph computes its matrix products in float32."""
    import onnx

    types = _element_types(graph)
    model = onnx.load(graph, load_external_data=False)
    products = [node for node in model.graph.node if node.op_type in _PRODUCTS]
    return any(types.get(node.output[0]) == onnx.TensorProto.FLOAT for node in products)


def write_half(graph: Path, destination: Path) -> None:
    """Write a float32 graph in float16, its weights beside it, one tensor at a time.

    Raises PlanError where the graph is of no form that can be lowered.
    """
    import onnx
    import onnx_ir as ir

    types = _element_types(graph)
    model = ir.load(graph)
    if model.functions:
        raise PlanError(f"{graph} has functions of its own; export the model again with fathom-export")
    floats = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT}
    half_nodes = _half_nodes(model.graph)
    for node in list(model.graph):
        if node in half_nodes:
            _retype_attributes(node)
    for value in model.graph.inputs:
        if value.dtype == ir.DataType.FLOAT:
            value.dtype = ir.DataType.FLOAT16
    _retype_initializers(model.graph, half_nodes)
    _join_regions(model.graph, half_nodes, floats)
    _restore_outputs(model.graph, half_nodes, floats)
    ir.save(model, destination, external_data=destination.name + _DATA_SUFFIX)


def _half_nodes(graph: "ir.Graph") -> "set[ir.Node]":
    """The nodes that are matrix products or lead to one."""
    half: set[ir.Node] = set()
    for node in reversed(list(graph)):
        if node.op_type in _PRODUCTS or any(user in half for output in node.outputs for user, _ in output.uses()):
            half.add(node)
    return half


def _retype_attributes(node: "ir.Node") -> None:
    """Constants, and casts to float32, give float16."""
    import onnx_ir as ir

    if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)
    for name in ("value", "value_float", "value_floats"):
        attribute = node.attributes.get(name)
        if attribute is None or node.op_type not in ("Constant", "ConstantOfShape"):
            continue
        if name != "value":
            raise PlanError(f"{node.name} is a constant by {name}, which cannot be lowered; export the model again")
        tensor = attribute.as_tensor()
        if tensor.dtype == ir.DataType.FLOAT:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(_to_half(tensor.numpy())))


def _retype_initializers(graph: "ir.Graph", half_nodes: "set[ir.Node]") -> None:
    """Weights of float16 nodes become float16; one that a float32 node reads too is kept in both."""
    import onnx_ir as ir

    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        users = [(user, index) for user, index in value.uses() if user in half_nodes]
        if not users:
            continue
        lowered = ir.Value(name=f"{name}{_HALF_SUFFIX}", shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16))
        lowered.const_value = ir.LazyTensor(
            partial(_half_tensor, tensor),
            dtype=ir.DataType.FLOAT16,
            shape=ir.Shape(tensor.shape.numpy()),
            name=lowered.name,
        )
        graph.register_initializer(lowered)
        for user, index in users:
            user.replace_input_with(index, lowered)
        if not value.uses() and not value.is_graph_output():
            graph.initializers.pop(name)


def _join_regions(graph: "ir.Graph", half_nodes: "set[ir.Node]", floats: set[str]) -> None:
    """Values that pass from float16 to float32 nodes are cast once; the types of all values are set."""
    import onnx_ir as ir

    casts: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        for output in node.outputs:
            if output.name in floats:
                output.dtype = ir.DataType.FLOAT16 if node in half_nodes else ir.DataType.FLOAT
        if node in half_nodes:
            continue
        for index, value in enumerate(node.inputs):
            if value is None or value.name not in floats or value.is_initializer():
                continue
            producer = value.producer()
            if producer is not None and producer not in half_nodes:
                continue
            if value not in casts:
                cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{value.name}.float32")
                cast.outputs[0].name = f"{value.name}.float32"
                cast.outputs[0].dtype = ir.DataType.FLOAT
                graph.insert_before(node, cast)
                casts[value] = cast.outputs[0]
            node.replace_input_with(index, casts[value])


def _restore_outputs(graph: "ir.Graph", half_nodes: "set[ir.Node]", floats: set[str]) -> None:
    """Outputs keep their names and, unless they are the cache, float32."""
    import onnx_ir as ir

    for index, value in enumerate(graph.outputs):
        name, producer = value.name, value.producer()
        if name is None or name not in floats or producer not in half_nodes or name.startswith(_CACHE_PREFIX):
            continue
        value.name = f"{name}{_HALF_SUFFIX}"
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{name}.float32")
        output = cast.outputs[0]
        output.name, output.dtype, output.shape = name, ir.DataType.FLOAT, value.shape
        graph.append(cast)
        graph.outputs[index] = output


def _element_types(graph: Path) -> dict[str, int]:
    """The ONNX element type of every value, as far as inference tells."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def _half_tensor(tensor: "ir.TensorProtocol") -> "ir.TensorProtocol":
    import onnx_ir as ir

    return ir.tensor(_to_half(tensor.numpy()))


def _to_half(array: Any) -> Any:
    """Float16 of the nearest values; what is finite stays finite, as masks of the lowest float32 must."""
    import numpy as np

    limit = np.finfo(np.float16).max
    clipped = np.where(np.isfinite(array), np.clip(array, -limit, limit), array)
    return clipped.astype(np.float16)
