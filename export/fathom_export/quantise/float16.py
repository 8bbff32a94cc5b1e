"""A portable graph in float16: weights, activations and cache; norms and softmax in float32, as are the logits.

TensorRT computes a strongly typed network in the types that it is given, and a sum of squares overflows float16 at
activations of a few hundred, so every norm stands between two casts.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fathom_export.errors import CheckpointError
from fathom_export.quantise.products import lazily, replace_tensor, stored

FLOAT16_MAX: Final = 65504.0

_NORMS: Final = ("RMSNormalization", "LayerNormalization")


def to_float16(model: ir.Model, keep_float32_outputs: tuple[str, ...]) -> None:
    """Turn a float32 graph that is not yet saved into float16, in place.

    Inputs and outputs change too, but for the named outputs. Writing a weight that is beyond float16's range raises
    CheckpointError.
    """
    graph = model.graph
    norms = [node for node in graph if node.op_type in _NORMS]
    of_norms = {value.name for node in norms for value in node.inputs[1:] if value is not None}
    for value in graph.initializers.values():
        if stored(value).dtype == ir.DataType.FLOAT and value.name not in of_norms:
            replace_tensor(value, lazily(stored(value), ir.DataType.FLOAT16, _checked(str(value.name))))
    for node in list(graph):
        _convert_attributes(node)
    for node in norms:
        _surround(graph, node)
    for value in graph.inputs:
        if value.dtype == ir.DataType.FLOAT:
            value.dtype = ir.DataType.FLOAT16
    for place, value in enumerate(list(graph.outputs)):
        if value.dtype == ir.DataType.FLOAT:
            if value.name in keep_float32_outputs:
                graph.outputs[place] = _widened(graph, value)
            else:
                value.dtype = ir.DataType.FLOAT16


def _checked(name: str) -> Any:
    def narrow(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        largest = float(np.abs(values).max(initial=0))
        if largest > FLOAT16_MAX:
            raise CheckpointError(
                f"weight {name} holds {largest:g}, which is beyond float16's largest {FLOAT16_MAX:g}; use precision "
                "fp32"
            )
        return values.astype(np.float16)

    return narrow


def _convert_attributes(node: ir.Node) -> None:
    """Casts to float32 go to float16, constants in attributes too; an attention's softmax stays in float32."""
    target = node.attributes.get("to")
    if node.op_type == "Cast" and target is not None and target.as_int() == ir.DataType.FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)
    filling = node.attributes.get("value")
    if filling is not None and filling.type == ir.AttributeType.TENSOR:
        tensor = filling.as_tensor()
        if tensor.dtype == ir.DataType.FLOAT:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(tensor.numpy().astype(np.float16)))
    if node.op_type == "Attention":
        node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", ir.DataType.FLOAT)


def _surround(graph: ir.Graph, node: ir.Node) -> None:
    """Cast a norm's input to float32 and its output back."""
    source, output = node.inputs[0], node.outputs[0]
    widened = _cast(f"{node.name}.float32", source, ir.DataType.FLOAT)
    graph.insert_before(node, widened)
    node.replace_input_with(0, widened.outputs[0])
    uses = list(output.uses())
    narrowed = _cast(f"{node.name}.float16", output, ir.DataType.FLOAT16)
    graph.insert_after(node, narrowed)
    for user, place in uses:
        user.replace_input_with(place, narrowed.outputs[0])


def _widened(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A float32 value of an output's name; the output itself is renamed."""
    producer, name, shape = value.producer(), str(value.name), value.shape
    if producer is None:
        raise ValueError(f"output {name} is no node's")
    value.name, value.dtype = f"{name}.float16", ir.DataType.FLOAT16
    cast = _cast(name, value, ir.DataType.FLOAT)
    cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.FLOAT, shape
    graph.insert_after(producer, cast)
    return cast.outputs[0]


def _cast(name: str, value: ir.Value | None, dtype: ir.DataType) -> ir.Node:
    return ir.node("Cast", [value], {"to": ir.AttrInt64("to", dtype)}, outputs=[ir.Value(name=name)], name=name)
