"""The JSON schema of a bundle, made from the types, for editors that complete and check TOML."""

import json
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, Final, get_args, get_origin

from fathom_export.spec.bundle import DEFAULT_REPOSITORY, DEVICES_KEY, MODELS_KEY, REPOSITORY_KEY
from fathom_export.spec.device import DeviceSpec
from fathom_export.spec.key import MAX_COUNT, Key, TypedKey, keys_of
from fathom_export.spec.model_spec import DEFAULT_ENGINE, ENGINES, KINDS, NAME_PATTERN, SPECS, ModelSpec, task_of

REPOSITORY_HELP: Final = "model repository to write, relative to this file"
MODELS_HELP: Final = "the models to build"
DEVICES_HELP: Final = "LLMs for devices without Triton, which `fathom-export --target device` writes"
TASK_HELP: Final = "what the model does; the other keys depend on it"
ENGINE_HELP: Final = (
    "who computes an LLM: Fathom's engine; vLLM through Triton's backend, on several GPUs; a cascade of two others"
)

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TYPES: Final[Mapping[type, str]] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def bundle_schema() -> dict[str, Any]:
    """The schema (JSON Schema 2020-12) as JSON values."""
    branches = [_branch(kind, spec) for kind, spec in KINDS.items()]
    model = {
        "type": "object",
        "properties": {"task": {"enum": list(SPECS), "description": TASK_HELP}},
        "required": ["task"],
        "allOf": branches,
    }
    return {
        "$schema": _DIALECT,
        "title": "Fathom bundle",
        "description": "What `fathom-export` builds and how Triton serves it.",
        "type": "object",
        "properties": {
            REPOSITORY_KEY: _text(REPOSITORY_HELP) | {"default": DEFAULT_REPOSITORY},
            MODELS_KEY: {"description": MODELS_HELP, "type": "array", "minItems": 1, "items": model},
            DEVICES_KEY: {"description": DEVICES_HELP, "type": "array", "minItems": 1, "items": _table(DeviceSpec)},
        },
        "anyOf": [{"required": [MODELS_KEY]}, {"required": [DEVICES_KEY]}],
        "additionalProperties": False,
    }


def _branch(kind: str, spec: type[ModelSpec]) -> dict[str, Any]:
    """What holds for models of one task, or of one engine of it."""
    task = task_of(kind)
    condition: dict[str, Any] = {"properties": {"task": {"const": task}}, "required": ["task"]}
    also: dict[str, Any] = {"task": {"const": task, "description": TASK_HELP}}
    if kind in ENGINES:
        condition["properties"]["engine"] = {"const": kind}
        condition["required"].append("engine")
        also["engine"] = {"const": kind, "description": ENGINE_HELP}
    elif task == "generate":
        others = [engine for engine in ENGINES if engine != DEFAULT_ENGINE]
        condition["not"] = {"properties": {"engine": {"enum": others}}, "required": ["engine"]}
        also["engine"] = {"enum": list(ENGINES), "description": ENGINE_HELP, "default": DEFAULT_ENGINE}
    return {"if": condition, "then": _table(spec, also=also)}


def bundle_schema_text() -> str:
    """The schema as a file's text."""
    return json.dumps(bundle_schema(), indent=2, ensure_ascii=False) + "\n"


def _table(table: type, also: Mapping[str, Any] | None = None) -> dict[str, Any]:
    keys = keys_of(table)
    required = [key.name for key in keys.values() if key.default is MISSING]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {**(also or {}), **{name: _value(key) for name, key in keys.items()}},
        "additionalProperties": False,
    }
    if required:
        schema["required"] = required
    return schema


def _value(key: TypedKey) -> dict[str, Any]:
    description = {"description": key.key.help}
    if key.subtable is not None:
        return description | _table(key.subtable)
    default = {"default": key.default} if isinstance(key.default, str | int | float) else {}
    if key.choices:
        return description | {"enum": list(key.choices)} | default
    if get_origin(key.kind) is tuple:
        return description | {"type": "array", "items": _scalar(get_args(key.kind)[0], key.key)}
    if key.is_free:
        return description | {"type": "object"}
    if key.kind not in _TYPES:
        return description | {"type": "object", "additionalProperties": _scalar(get_args(key.kind)[1], key.key)}
    pattern = {"pattern": f"^{NAME_PATTERN}$"} if key.name == "name" else {}
    return description | _scalar(key.kind, key.key) | pattern | default


def _scalar(kind: Any, key: Key) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _TYPES[kind]}
    if kind is str:
        return schema | {"minLength": 1}
    if kind in (int, float):
        schema["exclusiveMaximum"] = MAX_COUNT
        if key.minimum is not None:
            schema["minimum"] = key.minimum
        if key.above is not None:
            schema["exclusiveMinimum"] = key.above
    return schema


def _text(description: str) -> dict[str, Any]:
    return {"description": description, "type": "string", "minLength": 1}
