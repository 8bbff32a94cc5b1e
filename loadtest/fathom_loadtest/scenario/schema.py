"""The JSON schema of a scenario, made from the types, for editors that complete and check TOML."""

import json
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from fathom_loadtest.scenario.key import MAX_NUMBER, Key, TypedKey, keys_of, tag_of, variants_of
from fathom_loadtest.scenario.scenario import Scenario
from fathom_loadtest.scenario.slo import SLO_NAMES, Slo

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TYPES: Final[Mapping[type, str]] = {
    str: "string", Path: "string", int: "integer", float: "number", bool: "boolean",
}  # fmt: skip


def scenario_schema() -> dict[str, Any]:
    """The schema (JSON Schema 2020-12) as JSON values."""
    schema = _table(Scenario)
    schema["required"].remove("target")  # its keys all have defaults
    return {"$schema": _DIALECT, "title": "Fathom load test scenario", **schema}


def scenario_schema_text() -> str:
    """The schema as a file's text."""
    return json.dumps(scenario_schema(), indent=2, ensure_ascii=False) + "\n"


def _table(table: type) -> dict[str, Any]:
    keys = keys_of(table)
    tag = tag_of(table)
    required = [key.name for key in keys.values() if key.default is MISSING]
    properties = {name: _value(key) for name, key in keys.items()}
    if tag is not None:
        properties = {tag[0]: {"const": tag[1]}, **properties}
        required = [tag[0], *required]
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": required}


def _value(key: TypedKey) -> dict[str, Any]:
    described: dict[str, Any] = {"description": key.key.help.replace("`", "")}
    if isinstance(key.default, str | int | float) and key.default != "":
        described["default"] = key.default
    return described | _kind(key.kind, key.key)


def _kind(kind: Any, key: Key) -> dict[str, Any]:
    if kind is Slo:
        limit = {"type": "number", "exclusiveMinimum": 0}
        return {"type": "object", "properties": dict.fromkeys(SLO_NAMES, limit), "additionalProperties": False}
    variants = variants_of(kind)
    if variants:
        forms = [_table(variant) for variant in variants]
        if (shorthand := getattr(variants[0], "SHORTHAND", None)) is not None:
            forms.insert(0, _value(keys_of(variants[0])[shorthand]))
        return forms[0] if len(forms) == 1 else {"anyOf": forms}
    if get_origin(kind) is tuple:
        return _list(get_args(kind)[0], key)
    return _scalar(kind, key)


def _list(kind: Any, key: Key) -> dict[str, Any]:
    if kind is Slo:
        return _kind(kind, key)
    items = {"type": "array", "items": _kind(kind, key)}
    return items if variants_of(kind) else {"anyOf": [_scalar(kind, key), items]}


def _scalar(kind: Any, key: Key) -> dict[str, Any]:
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    schema: dict[str, Any] = {"type": _TYPES[kind]}
    if kind in (str, Path):
        return schema | {"minLength": 1}
    if kind in (int, float):
        schema["maximum"] = MAX_NUMBER if key.maximum is None else key.maximum
        if key.minimum is not None:
            schema["minimum"] = key.minimum
        if key.above is not None:
            schema["exclusiveMinimum"] = key.above
    return schema
