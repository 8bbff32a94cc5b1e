"""A float32 graph in float16, as a strongly typed network takes it: each operator computes in the types it is given.

Everything that leads to a matrix product is computed in float16, but for the norms, which stand between two casts: a
sum of squares overflows float16 at activations of a few hundred. An attention's softmax is asked for in float32. What
comes after the last product (an encoder's pooling and normalisation, with its constants near 1e-12) stays in float32,
and so do outputs, except a decoder's cache.
"""

from collections.abc import Set
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fathom_export.errors import CheckpointError
from fathom_export.quantise.derived import derived
from fathom_export.quantise.products import add_initializer, stored

FLOAT16_MAX: Final = 65504.0

_PRODUCTS: Final = ("MatMul", "Gemm", "Attention")
_NORMS: Final = ("RMSNormalization", "LayerNormalization")
_CONSTANTS: Final = ("Constant", "ConstantOfShape")
_CACHE_PREFIX: Final = "present."
_MASK: Final = 1e30
"""A constant beyond it, or infinite, hides values from a softmax: float16's largest does that too."""


def is_float32(model: ir.Model) -> bool:
    """Whether a graph computes its matrix products in float32."""
    floats = _float32_names(model)
    return any(node.op_type in _PRODUCTS and node.outputs[0].name in floats for node in model.graph)


def to_float16(model: ir.Model) -> None:
    """Turn a float32 graph into float16, in place; weights change as they are written.

    Writing a weight that is beyond float16's range raises CheckpointError; a graph with functions of its own, or with
    constants that are no tensors, raises ValueError.
    """
    if model.functions:
        raise ValueError("the graph has functions of its own")
    graph, floats = model.graph, _float32_names(model)
    half = _leading_to_products(graph)
    norms = {node for node in half if node.op_type in _NORMS}
    half -= norms
    for node in half:
        _retype_attributes(node)
    for value in graph.inputs:
        if value.name in floats:
            value.dtype = ir.DataType.FLOAT16
    _retype_initializers(graph, half)
    _join_regions(graph, half, norms, floats)
    _restore_outputs(graph, half, floats)


def _leading_to_products(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that are matrix products or lead to one."""
    found: set[ir.Node] = set()
    for node in reversed(list(graph)):
        if node.op_type in _PRODUCTS or any(user in found for output in node.outputs for user, _ in output.uses()):
            found.add(node)
    return found


def _float32_names(model: ir.Model) -> set[str]:
    """Names of all float32 values; the graph stays as it is."""
    from onnx_ir.passes.common import ShapeInferencePass

    values = [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
    before = [(value, value.type, value.shape) for value in values]
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)
    found = {str(value.name) for value in values if value.dtype == ir.DataType.FLOAT}
    for value, type_, shape in before:
        value.type, value.shape = type_, shape
    return found | {
        name for name, value in model.graph.initializers.items() if stored(value).dtype == ir.DataType.FLOAT
    }


def _retype_attributes(node: ir.Node) -> None:
    """Constants, and casts to float32, give float16; an attention's softmax stays in float32."""
    target = node.attributes.get("to")
    if node.op_type == "Cast" and target is not None and target.as_int() == ir.DataType.FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)
    if node.op_type == "Attention":
        node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", ir.DataType.FLOAT)
    for name in ("value", "value_float", "value_floats"):
        attribute = node.attributes.get(name)
        if attribute is None or node.op_type not in _CONSTANTS:
            continue
        if name != "value":
            raise ValueError(f"{node.name} is a constant by {name}")
        tensor = attribute.as_tensor()
        if tensor.dtype == ir.DataType.FLOAT:
            values = narrowed(str(node.name), tensor.numpy())
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(values))


def _retype_initializers(graph: ir.Graph, half: Set[ir.Node]) -> None:
    """Constants of float16 nodes become float16; one that a float32 node reads too is kept in both."""
    for name, value in list(graph.initializers.items()):
        tensor = stored(value)
        users = [(user, place) for user, place in value.uses() if user in half]
        if tensor.dtype != ir.DataType.FLOAT or not users:
            continue
        is_shared = len(users) < len(list(value.uses())) or value.is_graph_output()
        if not is_shared:
            graph.initializers.pop(name)
        in_half = add_initializer(
            graph,
            derived(
                tensor,
                partial(narrowed, name),
                ir.DataType.FLOAT16,
                f"{name}.float16" if is_shared else name,
            ),
        )
        for user, place in users:
            user.replace_input_with(place, in_half)


def _join_regions(graph: ir.Graph, half: Set[ir.Node], norms: Set[ir.Node], floats: Set[str]) -> None:
    """Cast once what float32 nodes read of float16 ones, and back what a norm gives to float16 nodes."""
    widened: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        outputs = [output for output in node.outputs if output.name in floats]
        for output in outputs:
            _retype(output, ir.DataType.FLOAT16 if node in half else ir.DataType.FLOAT)
        if node in half:
            continue
        for place, value in enumerate(node.inputs):
            if value is None or value.name not in floats or value.is_initializer():
                continue
            producer = value.producer()
            if producer is not None and producer not in half:
                continue
            if value not in widened:
                cast = _cast(f"{value.name}.float32", value, ir.DataType.FLOAT)
                graph.insert_before(node, cast)
                widened[value] = cast.outputs[0]
            node.replace_input_with(place, widened[value])
        for output in outputs if node in norms else ():
            users = [(user, place) for user, place in output.uses() if user in half]
            if users:
                cast = _cast(f"{output.name}.float16", output, ir.DataType.FLOAT16)
                graph.insert_after(node, cast)
                for user, place in users:
                    user.replace_input_with(place, cast.outputs[0])


def _restore_outputs(graph: ir.Graph, half: Set[ir.Node], floats: Set[str]) -> None:
    """Outputs keep their names and, unless they are the cache, float32."""
    for place, value in enumerate(list(graph.outputs)):
        name, producer = str(value.name), value.producer()
        if name not in floats or producer not in half or producer is None or name.startswith(_CACHE_PREFIX):
            continue
        shape = value.shape
        value.name = f"{name}.float16"
        cast = _cast(name, value, ir.DataType.FLOAT)
        cast.outputs[0].shape = shape
        graph.insert_after(producer, cast)
        graph.outputs[place] = cast.outputs[0]


def _retype(value: ir.Value, dtype: ir.DataType) -> None:
    if value.type is not None:  # else nobody has said it yet, and it is for a reader to infer
        value.dtype = dtype


def _cast(name: str, value: ir.Value, dtype: ir.DataType) -> ir.Node:
    output = ir.Value(name=name, type=ir.TensorType(dtype))
    return ir.node("Cast", [value], {"to": ir.AttrInt64("to", dtype)}, outputs=[output], name=name)


def narrowed(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Float32 values in float16, to the nearest; a mask's lowest float32 becomes the lowest float16."""
    largest = float(np.abs(values).max(initial=0))
    if largest > FLOAT16_MAX:
        hidden = np.abs(values) > _MASK
        largest = float(np.abs(values[~hidden]).max(initial=0))
        values = np.where(hidden & np.isfinite(values), np.copysign(np.float32(FLOAT16_MAX), values), values)
    if largest > FLOAT16_MAX:
        raise CheckpointError(
            f"weight {name} holds {largest:g}, which is beyond float16's largest {FLOAT16_MAX:g}; use precision fp32"
        )
    return values.astype(np.float16)
