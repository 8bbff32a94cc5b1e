"""Holds a graph, node by node, against the operator schemas that the installed ONNX Runtime registers."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

_TYPE_NAMES = {
    TensorProto.FLOAT: "tensor(float)",
    TensorProto.FLOAT16: "tensor(float16)",
    TensorProto.INT64: "tensor(int64)",
    TensorProto.INT32: "tensor(int32)",
    TensorProto.FLOAT8E4M3FN: "tensor(float8e4m3fn)",
}


@cache
def _schemas() -> dict[tuple[str, str], list[Any]]:
    found: dict[tuple[str, str], list[Any]] = {}
    for schema in get_all_operator_schema():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found


def _schema(node: onnx.NodeProto, opsets: dict[str, int]) -> Any:
    versions = _schemas().get((node.domain, node.op_type), [])
    fitting = [schema for schema in versions if schema.since_version <= opsets[node.domain]]
    return max(fitting, key=lambda schema: schema.since_version) if fitting else None


def faults(model: onnx.ModelProto) -> list[str]:
    """What is wrong with a graph's nodes: operators, numbers of inputs and outputs, attributes, types."""
    return list(_faults(model))


def _faults(model: onnx.ModelProto) -> Iterator[str]:
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    graph = model.graph
    types = {value.name: _TYPE_NAMES[value.type.tensor_type.elem_type] for value in graph.input}
    types |= {tensor.name: _TYPE_NAMES[tensor.data_type] for tensor in graph.initializer}
    for node in graph.node:
        schema = _schema(node, opsets)
        if schema is None:
            yield f"{node.name}: no operator {node.domain}.{node.op_type}"
            continue
        yield from _count_faults(node, schema)
        yield from _attribute_faults(node, schema)
        yield from _type_faults(node, schema, types)
    for output in graph.output:
        declared = _TYPE_NAMES[output.type.tensor_type.elem_type]
        if types.get(output.name) != declared:
            yield f"output {output.name} is {types.get(output.name)}, declared {declared}"


def _option(formal: Any) -> str:
    return str(formal.option).rsplit(".", 1)[-1]


def _count_faults(node: onnx.NodeProto, schema: Any) -> Iterator[str]:
    for what, names, formals in (("input", node.input, schema.inputs), ("output", node.output, schema.outputs)):
        is_variadic = bool(formals) and _option(formals[-1]) == "Variadic"
        if len(names) > len(formals) and not is_variadic:
            yield f"{node.name}: {len(names)} {what}s, {node.op_type} has {len(formals)}"
        for place, formal in enumerate(formals):
            if _option(formal) == "Single" and (place >= len(names) or not names[place]):
                yield f"{node.name}: {what} {formal.name} is missing"
        if names and not names[-1]:
            yield f"{node.name}: its last {what} is an empty one"


def _attribute_faults(node: onnx.NodeProto, schema: Any) -> Iterator[str]:
    given = {attribute.name: attribute for attribute in node.attribute}
    for name, attribute in given.items():
        known = schema.attributes.get(name)
        if known is None:
            yield f"{node.name}: {node.op_type} has no attribute {name}"
        elif str(known.type).rsplit(".", 1)[-1] != AttributeProto.AttributeType.Name(attribute.type):
            yield f"{node.name}: attribute {name} is of another type than {known.type}"
    yield from (
        f"{node.name}: attribute {name} is missing"
        for name, known in schema.attributes.items()
        if known.required and name not in given
    )


def _type_faults(node: onnx.NodeProto, schema: Any, types: dict[str, str]) -> Iterator[str]:
    """Types of a node's inputs against its constraints; those of its outputs go into ``types``."""
    allowed = {constraint.type_param_str: set(constraint.allowed_type_strs) for constraint in schema.type_constraints}
    bound: dict[str, str] = {}

    def formal_of(formals: Any, place: int) -> Any:
        return formals[min(place, len(formals) - 1)]

    for place, name in enumerate(node.input):
        if not name:
            continue
        variable = formal_of(schema.inputs, place).typeStr
        actual = types.get(name)
        if actual is None:
            yield f"{node.name}: nobody gives its input {name}"
        elif actual not in allowed.get(variable, {variable}):
            yield f"{node.name}: input {name} is {actual}, which {variable} of {node.op_type} does not take"
        elif bound.setdefault(variable, actual) != actual:
            yield f"{node.name}: input {name} is {actual}, but {variable} is {bound[variable]} already"
    if node.op_type == "Cast":
        bound["T2"] = _TYPE_NAMES[next(entry.i for entry in node.attribute if entry.name == "to")]
    for place, name in enumerate(node.output):
        variable = formal_of(schema.outputs, place).typeStr
        choices = allowed.get(variable, {variable})
        found = bound.get(variable) or (next(iter(choices)) if len(choices) == 1 else None)
        if name and found is None:
            yield f"{node.name}: the type of its output {name} follows from nothing"
        elif name:
            types[name] = str(found)
