"""Whether no value satisfies two schemas at once: then the alternatives of a oneOf are those of an anyOf."""

import json
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Final

from fathom_server.engine.grammar.keywords import TYPES

Schema = dict[str, Any] | bool

MAX_DEPTH: Final = 8
"""How deep properties and references are compared; deeper ones count as overlapping."""


def are_disjoint(schemas: Sequence[Schema], definitions: dict[str, Schema]) -> bool:
    """Whether it is certain that no value satisfies two of the schemas, which are in the form of ``checked_schema``."""
    return all(_disjoint(one, other, definitions, 0) for one, other in combinations(schemas, 2))


def _disjoint(one: Schema, other: Schema, definitions: dict[str, Schema], depth: int) -> bool:
    if one is False or other is False:
        return True
    if one is True or other is True or depth > MAX_DEPTH:
        return False
    for left, right in ((one, other), (other, one)):
        parts = [*left.get("allOf", ())]
        if "$ref" in left:
            parts.append(definitions[left["$ref"].removeprefix("#/$defs/")])
        if any(_disjoint(part, right, definitions, depth + 1) for part in parts):
            return True
        for keyword in ("anyOf", "oneOf"):
            if keyword in left and all(_disjoint(part, right, definitions, depth + 1) for part in left[keyword]):
                return True
    shared = _types(one) & _types(other)
    if not shared:
        return True
    values = [_values(one), _values(other)]
    if values[0] is not None and values[1] is not None and not values[0] & values[1]:
        return True
    if shared <= {"integer", "number"} and (_lies_below(one, other) or _lies_below(other, one)):
        return True
    return shared == {"object"} and any(
        _disjoint(_property(one, name), _property(other, name), definitions, depth + 1)
        for name in {*one.get("required", ()), *other.get("required", ())}
    )


def _types(schema: dict[str, Any]) -> set[str]:
    """The types of the values that may satisfy a schema; integers count as numbers."""
    given = schema.get("type", TYPES)
    types = {given} if isinstance(given, str) else set(given)
    if "number" in types:
        types.add("integer")
    values = _values(schema)
    if values is not None:
        types &= {_type_of(json.loads(value)) for value in values}
    return types


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "number"
    return {type(None): "null", str: "string", list: "array", dict: "object"}[type(value)]


def _values(schema: dict[str, Any]) -> set[str] | None:
    """The values of const and enum, each in one spelling; None where there are others."""
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if listed is None else {json.dumps(_plain(value), sort_keys=True) for value in listed}


def _plain(value: Any) -> Any:
    """Numbers that are equal in JSON spelled the same: 1 and 1.0."""
    if isinstance(value, float) and value == int(value):
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _lies_below(low: dict[str, Any], high: dict[str, Any]) -> bool:
    ends = [low[keyword] for keyword in ("maximum", "exclusiveMaximum") if keyword in low]
    begins = [high[keyword] for keyword in ("minimum", "exclusiveMinimum") if keyword in high]
    return bool(ends and begins) and min(ends) < max(begins)


def _property(schema: dict[str, Any], name: str) -> Schema:
    if name in schema.get("properties", {}):
        found: Schema = schema["properties"][name]
        return found
    if schema.get("patternProperties"):
        return True
    others: Schema = schema.get("additionalProperties", True)
    return others
