"""``values.schema.json``: types from the defaults, refined by the annotations of ``values.yaml``."""

import json
from typing import Any, Final

from deploy.chart.values_file import Value

_QUANTITIES: Final = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number"], "pattern": "^[0-9]+(\\.[0-9]+)?(m|k|[KMGT]i?|[0-9]*)$"},
}

DEFINITIONS: Final = {
    "resources": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"requests": _QUANTITIES, "limits": _QUANTITIES},
    }
}


def schema_text(values: tuple[Value, ...]) -> str:
    """The JSON schema (draft 7, which Helm reads) of a values file."""
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart fathom",
        "$defs": DEFINITIONS,
        **_object(values, also={"global": {"type": "object"}}),  # Helm's own, of charts that have this one below them
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _object(values: tuple[Value, ...], also: dict[str, Any]) -> dict[str, Any]:
    properties = {value.path[-1]: _schema_of(value) for value in values}
    return {"type": "object", "additionalProperties": False, "properties": properties | also}


def _schema_of(value: Value) -> dict[str, Any]:
    if value.children:
        return {"description": value.explanation} | _object(value.children, also={})
    if "$ref" in value.annotation:  # draft 7 knows no key beside a reference
        return dict(value.annotation)
    described = {"description": value.explanation, **value.annotation}
    if "type" not in described and "enum" not in described:
        described["type"] = _type_of(value.default)
    return described


def _type_of(default: object) -> str:
    """JSON's name for the type of a default, which is never null: such a value has an annotation."""
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(default)]
