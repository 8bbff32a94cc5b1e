"""Qwen3-Coder's way: ``<tool_call><function=name><parameter=key>value</parameter></function></tool_call>``.

Values are bare text between line breaks: what they are follows from the functions' schemas. Qwen 3.5 and Nemotron 3
write calls in the same way.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

from fathom_server.gateway.tools.call_object import NO_ARGUMENTS
from fathom_server.gateway.tools.events import CallArguments, CallBegin, Content, ToolEvent, call_id
from fathom_server.gateway.tools.hermes import CLOSE, OPEN
from fathom_server.gateway.tools.marked_text import SPACE, MarkedText
from fathom_server.gateway.tools.parameter_types import ParameterTypes
from fathom_server.gateway.tools.parameter_value import ParameterValue
from fathom_server.gateway.tools.python_value import as_json

FUNCTION: Final = "<function="
FUNCTION_END: Final = "</function>"
PARAMETER: Final = "<parameter="
_MARK_END: Final = ">"


class _State(Enum):
    """What the next character belongs to."""

    TEXT = auto()
    NAME = auto()
    BODY = auto()
    KEY = auto()
    VALUE = auto()


class Qwen3CoderReader:
    """A ``ToolCallReader`` of this format. What follows the marks and is no call stays text, the marks as well.

    ``functions`` are the offered functions' names with the schemas of their parameters. ``<tool_call>`` may be missing,
    as models forget it.
    """

    def __init__(self, functions: Mapping[str, Mapping[str, Any] | None]) -> None:
        self._functions = functions
        self._state = _State.TEXT
        self._text = MarkedText(OPEN, CLOSE, FUNCTION)
        self._body = MarkedText(PARAMETER, FUNCTION_END, CLOSE)
        self._taken = ""
        self._name = ""
        self._calls = 0
        self._parameters = 0
        self._types = ParameterTypes(None)
        self._value = ParameterValue("", "", self._types)

    def push(self, text: str) -> list[ToolEvent]:
        """See ``ToolCallReader.push``."""
        events: list[ToolEvent] = []
        while text:
            match self._state:
                case _State.TEXT:
                    text = self._read_text(text, events)
                case _State.NAME:
                    text = self._read_name(text, events)
                case _State.BODY:
                    text = self._read_body(text, events)
                case _State.KEY:
                    text = self._read_key(text, events)
                case _State.VALUE:
                    text = self._read_value(text, events)
        return events

    def end(self) -> list[ToolEvent]:
        """See ``ToolCallReader.end``."""
        events: list[ToolEvent] = []
        if self._state is _State.VALUE:
            self._hand_on(self._value.end(), events)
        elif self._state in (_State.TEXT, _State.NAME):
            held = self._taken + self._name + self._text.end()
            if held and not (self._calls and not held.strip(SPACE)):
                events.append(Content(held))
        return events

    def _read_text(self, text: str, events: list[ToolEvent]) -> str:
        passage = self._text.push(text)
        if passage.text or passage.mark in (OPEN, CLOSE):
            given_back, self._taken = self._taken + passage.text, ""
            if given_back:
                events.append(Content(given_back))
        if passage.mark == OPEN:
            self._taken = passage.space + OPEN
        elif passage.mark == FUNCTION:
            self._taken += passage.space + FUNCTION
            self._state, self._name = _State.NAME, ""
        elif passage.mark == CLOSE and not self._calls:
            events.append(Content(passage.space + CLOSE))
        return passage.rest

    def _read_name(self, text: str, events: list[ToolEvent]) -> str:
        character = text[0]
        if character == _MARK_END and self._name in self._functions:
            events.append(CallBegin(self._calls, call_id(), self._name))
            self._types = ParameterTypes(self._functions[self._name])
            self._calls += 1
            self._taken, self._name, self._parameters = "", "", 0
            self._state = _State.BODY
            return text[1:]
        name = self._name + character
        if any(each.startswith(name) for each in self._functions):
            self._name = name
            return text[1:]
        events.append(Content(self._taken + self._name))
        self._taken, self._name = "", ""
        self._state = _State.TEXT
        return text

    def _read_body(self, text: str, events: list[ToolEvent]) -> str:
        passage = self._body.push(text)
        if passage.text:
            events.append(Content(passage.text))
        if passage.mark == PARAMETER:
            self._state, self._name = _State.KEY, ""
        elif passage.mark is not None:
            self._hand_on("}" if self._parameters else NO_ARGUMENTS, events)
            self._state = _State.TEXT
        return passage.rest

    def _read_key(self, text: str, events: list[ToolEvent]) -> str:
        key, end, rest = text.partition(_MARK_END)
        self._name += key
        if end:
            key, self._name = self._name.strip(), ""
            opening = f"{', ' if self._parameters else '{'}{as_json(key)}: "
            self._value = ParameterValue(opening, key, self._types)
            self._parameters += 1
            self._hand_on(self._value.begin(), events)
            self._state = _State.VALUE
        return rest

    def _read_value(self, text: str, events: list[ToolEvent]) -> str:
        found, rest = self._value.push(text)
        self._hand_on(found, events)
        if self._value.is_complete:
            self._state = _State.BODY
        return rest

    def _hand_on(self, arguments: str, events: list[ToolEvent]) -> None:
        if arguments:
            events.append(CallArguments(self._calls - 1, arguments))
