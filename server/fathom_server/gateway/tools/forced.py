"""Calls that ``tool_choice`` demands: the structure that the answer must have, and how it is read."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fathom_server.gateway.tools.events import CallArguments, CallBegin, ToolEvent, call_id

NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}


class ArgumentsReader:
    """A ``ToolCallReader`` of an answer that is the arguments of one call, of a function that the request names."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._has_begun = False

    def push(self, text: str) -> list[ToolEvent]:
        """See ``ToolCallReader.push``."""
        events: list[ToolEvent] = []
        if not self._has_begun:
            self._has_begun = True
            events.append(CallBegin(0, call_id(), self._name))
        if text:
            events.append(CallArguments(0, text))
        return events

    def end(self) -> list[ToolEvent]:
        """See ``ToolCallReader.end``."""
        return [] if self._has_begun else self.push("")


def arguments_schema(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """The schema of the arguments of a function that is to be called."""
    return dict(NO_PARAMETERS if parameters is None else parameters)


def calls_schema(functions: Sequence[tuple[str, Mapping[str, Any] | None]], *, parallel: bool) -> dict[str, Any]:
    """The schema of a list of at least one call, and of no more unless they may be ``parallel``.

    ``functions`` are names and the schemas of their parameters, which stand in ``$defs``, so that references inside
    them, which start at their own roots, are led there.
    """
    places = {name: f"#/$defs/{index}" for index, (name, _) in enumerate(functions)}
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": {"$ref": places[name]}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, _ in functions
    ]
    return {
        "type": "array",
        "minItems": 1,
        **({} if parallel else {"maxItems": 1}),
        "items": {"anyOf": calls},
        "$defs": {
            str(index): _relocated(arguments_schema(parameters), places[name])
            for index, (name, parameters) in enumerate(functions)
        },
    }


def _relocated(schema: Any, place: str) -> Any:
    """A schema whose references to its own root lead to ``place``."""
    if isinstance(schema, list):
        return [_relocated(each, place) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _relocated(value, place) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = place + reference[1:]
    return moved
