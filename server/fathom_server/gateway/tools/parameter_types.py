"""What a function's parameters are by its JSON schema, for formats that write every value as bare text."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from fathom_server.gateway.tools.python_value import as_json, json_of

STRING: Final = "string"
_MOST_REFERENCES: Final = 16
_TYPES: Final[Mapping[type, str]] = {
    str: STRING,
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}


class ParameterTypes:
    """The JSON types that each parameter of a function may have; one of which nothing is said is a string."""

    def __init__(self, parameters: Mapping[str, Any] | None) -> None:
        self._root = parameters or {}

    def of(self, name: str) -> frozenset[str]:
        """The types of a parameter."""
        properties = self._root.get("properties")
        schema = properties.get(name) if isinstance(properties, Mapping) else None
        return frozenset(self._types(schema, _MOST_REFERENCES)) or frozenset({STRING})

    def json_of(self, name: str, text: str) -> str:
        """A value as JSON: what the text says in a type that the parameter has, otherwise a string.

        JSON goes before Python's literals, which models write as well (``True``, ``None``, single quotes).
        """
        types = self.of(name)
        for written in _readings(text):
            value = json.loads(written)
            kind = _TYPES[type(value)]
            if kind != STRING and (kind in types or (kind == "integer" and "number" in types)):
                return written
        return as_json(text)

    def _types(self, schema: Any, references: int) -> Iterable[str]:
        if not isinstance(schema, Mapping) or not references:
            return
        declared = schema.get("type")
        yield from [declared] if isinstance(declared, str) else declared or ()
        for value in (*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())):
            yield _TYPES[type(value)]
        for word in ("anyOf", "oneOf", "allOf"):
            for inner in schema.get(word, ()):
                yield from self._types(inner, references)
        if "$ref" in schema:
            yield from self._types(self._referred(schema["$ref"]), references - 1)

    def _referred(self, reference: Any) -> Any:
        """What a reference within the schema leads to; None for one that leads nowhere."""
        found: Any = self._root
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        for step in reference[1:].split("/")[1:]:
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        return found


def _readings(text: str) -> Iterable[str]:
    """The text as JSON, as far as it is JSON, then as the Python literal that it may be."""
    stripped = text.strip()
    try:
        json.loads(stripped, parse_constant=_refuse)
        yield stripped
    except (ValueError, RecursionError):
        pass
    yield json_of(stripped)


def _refuse(name: str) -> None:
    raise ValueError(f"JSON has no {name}")
