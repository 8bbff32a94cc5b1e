"""The JSON schema of report.json, made from the types that are written to it."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from fathom_loadtest.environment import RunEnvironment
from fathom_loadtest.generator import GeneratorLoad
from fathom_loadtest.metrics import Figure, Series, StageFigures, Statistics
from fathom_loadtest.outcome import Ending
from fathom_loadtest.report.document import SCHEMA, StageReport
from fathom_loadtest.server_side.document import Gauge, ServerSide, TimeFigures

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TYPES: Final[Mapping[Any, str]] = {
    str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null",
}  # fmt: skip
_DEFINED: Final = (Statistics, Gauge, TimeFigures)
"""Types that occur often enough to be defined once."""
_STAGE: Final = (
    "stage", "name", "users", "rate", "late", "attainment", "opened_ns", "closed_ns", "unfinished", "warnings",
)  # fmt: skip


def report_schema() -> dict[str, Any]:
    """The schema (JSON Schema 2020-12) as JSON values. The scenario has a schema of its own."""
    figures = _members(StageFigures)
    own = {name: value for name, value in figures["properties"].items() if name != "warnings"}
    of_stage = {**figures, "properties": own, "required": list(own)}
    hints = get_type_hints(StageReport)
    stage = {name: _of(hints[name]) for name in _STAGE} | {
        "error_examples": _of(dict[str, str]),
        "generator": _of(GeneratorLoad),
        "figures": of_stage,
        "tasks": {"type": "object", "additionalProperties": figures},
        "series": _of(Series),
        "server": _of(ServerSide | None),
    }
    figure = _members(Figure)
    definition = {name: value for name, value in figure["properties"].items() if name != "name"}
    report = {
        "schema": {"const": SCHEMA},
        "started_at": {"type": "string", "format": "date-time"},
        "command": _of(str),
        "ending": _of(Ending),
        "ending_message": _of(str),
        "knee": _of(int | None),
        "scenario": {"type": "object"},
        "target": _of(dict[str, str]),
        "environment": _of(RunEnvironment),
        "percentile_method": _of(str),
        "definitions": {"type": "object", "additionalProperties": _table(definition)},
        "stages": {"type": "array", "items": _table(stage)},
    }
    defined = {kind.__name__: _members(kind) for kind in _DEFINED}
    return {"$schema": _DIALECT, "title": "Fathom load test report", **_table(report), "$defs": defined}


def report_schema_text() -> str:
    """The schema as a file's text."""
    return json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n"


def _table(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _members(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return _table({field.name: _of(hints[field.name]) for field in fields(kind)})


def _of(kind: Any) -> dict[str, Any]:
    """Give the schema of a type as ``dataclasses.asdict`` and JSON write it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return {"anyOf": [_of(one) for one in inner]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple:
        return {"type": "array", "items": _of(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(inner[1])}
    if is_dataclass(kind):
        return {"$ref": f"#/$defs/{kind.__name__}"} if kind in _DEFINED else _members(kind)
    return {"type": _TYPES[kind]}
