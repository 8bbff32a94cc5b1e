"""The pythonic way of Llama 3.2 and 4: the answer is a list of calls as Python writes them, ``[f(a=1), g(b="x")]``."""

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

from fathom_server.gateway.tools.call_object import NO_ARGUMENTS
from fathom_server.gateway.tools.events import CallArguments, CallBegin, Content, ToolEvent, call_id
from fathom_server.gateway.tools.json_value import WHITESPACE
from fathom_server.gateway.tools.python_value import PythonValue, as_json, json_of

_KEYWORD: Final = re.compile(r"\s*([^\W\d][\w.-]*)\s*=(?!=)")


class _State(Enum):
    """What the next character belongs to."""

    OPEN = auto()
    NAME = auto()
    ARGUMENT = auto()
    SEPARATOR = auto()
    AFTER = auto()
    TEXT = auto()


class PythonicReader:
    """A ``ToolCallReader`` of this format. An answer that does not begin with such a list is text to its end.

    ``functions`` are the offered functions' names with the schemas of their parameters. Arguments are handed on as
    JSON, each when it is whole: a literal as its value, anything else as a string of what was written. One without a
    name has that of the schema's property in its place, or its number.
    """

    def __init__(self, functions: Mapping[str, Mapping[str, Any] | None]) -> None:
        self._functions = functions
        self._state = _State.OPEN
        self._taken = ""
        self._name = ""
        self._calls = 0
        self._arguments = 0
        self._value = PythonValue()

    def push(self, text: str) -> list[ToolEvent]:
        """See ``ToolCallReader.push``."""
        events: list[ToolEvent] = []
        while text:
            match self._state:
                case _State.ARGUMENT:
                    text = self._read_argument(text, events)
                case _State.TEXT:
                    events.append(Content(self._taken + text))
                    self._taken = text = ""
                case _:
                    text = self._read_mark(text, events)
        return events

    def end(self) -> list[ToolEvent]:
        """See ``ToolCallReader.end``."""
        taken, self._taken = self._taken, ""
        is_rest_of_calls = self._calls > 0 and not taken.strip(WHITESPACE + ",")
        return [Content(taken)] if taken and not is_rest_of_calls else []

    def _read_mark(self, text: str, events: list[ToolEvent]) -> str:
        """Read a character of what stands around the calls, or of a name; ``_taken`` is given back if it is no call."""
        character = text[0]
        match self._state, character:
            case (_State.OPEN, "[") | (_State.SEPARATOR, ","):
                self._state, self._name = _State.NAME, ""
            case _State.SEPARATOR, "]":
                self._state = _State.AFTER
            case _State.NAME, "]" if self._calls and not self._name:  # behind a last comma
                self._state = _State.AFTER
            case _State.NAME, "(" if self._name.rstrip(WHITESPACE) in self._functions:
                self._begin(events)
                return text[1:]
            case _State.NAME, _ if self._may_go_on(character):
                self._name = (self._name + character).lstrip(WHITESPACE)
            case ((_State.OPEN | _State.SEPARATOR | _State.AFTER), _) if character in WHITESPACE:
                pass
            case _:
                self._state = _State.TEXT
                return text
        self._taken = "" if self._state is _State.AFTER and character == "]" else self._taken + character
        return text[1:]

    def _may_go_on(self, character: str) -> bool:
        """Whether a function's name, with white space around it, may go on with a character."""
        name = (self._name + character).lstrip(WHITESPACE)
        stripped = name.rstrip(WHITESPACE)
        if stripped != name:
            return stripped in self._functions
        return any(each.startswith(name) for each in self._functions)

    def _begin(self, events: list[ToolEvent]) -> None:
        self._name = self._name.rstrip(WHITESPACE)
        self._taken, self._arguments = "", 0
        self._state, self._value = _State.ARGUMENT, PythonValue()
        events.append(CallBegin(self._calls, call_id(), self._name))
        self._calls += 1

    def _read_argument(self, text: str, events: list[ToolEvent]) -> str:
        rest = self._value.push(text)
        if not self._value.is_complete:
            return rest
        written, self._value = self._value.text, PythonValue()
        if written.strip(WHITESPACE):
            events.append(CallArguments(self._calls - 1, (", " if self._arguments else "{") + self._member(written)))
            self._arguments += 1
        if rest[0] == ")":
            events.append(CallArguments(self._calls - 1, "}" if self._arguments else NO_ARGUMENTS))
            self._state = _State.SEPARATOR
        return rest[1:]

    def _member(self, written: str) -> str:
        """An argument as a member of a JSON object."""
        keyword = _KEYWORD.match(written)
        if keyword is not None:
            return f"{as_json(keyword[1])}: {json_of(written[keyword.end() :])}"
        properties = list((self._functions[self._name] or {}).get("properties", ()))
        name = properties[self._arguments] if self._arguments < len(properties) else str(self._arguments)
        return f"{as_json(name)}: {json_of(written)}"
