"""One call as a JSON object, ``{"name": …, "arguments": {…}}``, read while it comes."""

import json
from collections.abc import Collection
from enum import Enum, auto
from typing import Final

from fathom_server.gateway.tools.events import CallArguments, CallBegin, ToolEvent, call_id
from fathom_server.gateway.tools.json_value import WHITESPACE, JsonValue

NAME: Final = "name"
ARGUMENTS: Final = ("arguments", "parameters")
NO_ARGUMENTS: Final = "{}"


class _State(Enum):
    """What the next character belongs to."""

    OPEN = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    SEPARATOR = auto()
    END = auto()


class CallObject:
    """The call number ``index`` of an answer, among functions of these ``names``.

    Arguments are handed on as they come, once the function is known; where they stand first, they wait. A string in
    their place, as some models write it, is taken for the JSON that it holds; without any, they are ``{}``. Nothing has
    been handed on where this ``failed`` to be a call: it is no such object, or names a function that is not offered.
    """

    def __init__(self, index: int, names: Collection[str]) -> None:
        self.failed = False
        self.has_begun = False
        self.taken = ""
        """The characters that were read until the call began, to be given back if it never does."""
        self._index = index
        self._names = names
        self._state = _State.OPEN
        self._key: object = None
        self._value = JsonValue()
        self._waiting = ""
        self._has_arguments = False

    @property
    def is_complete(self) -> bool:
        """Whether the object has ended."""
        return self._state is _State.END

    def push(self, text: str) -> tuple[list[ToolEvent], str]:
        """Read on; return what was found, and the rest behind the object's end."""
        events: list[ToolEvent] = []
        while text and not self.failed and not self.is_complete:
            before = text
            if self._state is _State.VALUE:
                text = self._read_value(text, events)
            elif self._state is _State.KEY:
                text = self._read_key(text)
            else:
                text = self._read_mark(text, events)
            if not self.has_begun:
                self.taken += before[: len(before) - len(text)]
        return events, text

    def end(self) -> None:
        """Note that no more comes: a call that has begun stays one, however it breaks off."""
        self.failed = not self.has_begun

    def _read_mark(self, text: str, events: list[ToolEvent]) -> str:
        """Read what stands before, between and after keys and values."""
        if text[0] in WHITESPACE:
            return text[1:]
        match self._state, text[0]:
            case _State.OPEN, "{":
                self._state = _State.SEPARATOR
            case _State.SEPARATOR, '"':
                self._state, self._value = _State.KEY, JsonValue()
                return text
            case _State.SEPARATOR, ",":
                pass
            case _State.COLON, ":":
                self._state, self._value = _State.VALUE, JsonValue()
            case _State.SEPARATOR, "}":
                self._finish(events)
            case _:
                self._finish(events)
                return text
        return text[1:]

    def _read_key(self, text: str) -> str:
        _, text = self._value.push(text)
        if self._value.is_complete:
            self._key = _parsed(self._value.text)
            self._state = _State.COLON
        return text

    def _read_value(self, text: str, events: list[ToolEvent]) -> str:
        taken, text = self._value.push(text)
        if self._key in ARGUMENTS and not self._has_arguments and self._value.is_object:
            self._hand_on(taken, events)
        if self._value.is_complete:
            self._state = _State.SEPARATOR
            if self._key == NAME and not self.has_begun:
                self._begin(_parsed(self._value.text), events)
            elif self._key in ARGUMENTS and not self._has_arguments:
                if not self._value.is_object:
                    self._hand_on(_arguments(self._value.text), events)
                self._has_arguments = True
        return text

    def _begin(self, name: object, events: list[ToolEvent]) -> None:
        if not isinstance(name, str) or name not in self._names:
            self.failed = True
            return
        self.has_begun = True
        events.append(CallBegin(self._index, call_id(), name))
        self._hand_on(self._waiting, events)

    def _hand_on(self, arguments: str, events: list[ToolEvent]) -> None:
        if not self.has_begun:
            self._waiting += arguments
        elif arguments:
            events.append(CallArguments(self._index, arguments))

    def _finish(self, events: list[ToolEvent]) -> None:
        self._state = _State.END
        self.failed = not self.has_begun
        if self.has_begun and not self._has_arguments:
            events.append(CallArguments(self._index, NO_ARGUMENTS))


def _parsed(text: str) -> object:
    """The value of a JSON text; None for what is none."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def _arguments(text: str) -> str:
    """Arguments that are no object: a string is what it holds, null is none at all."""
    value = _parsed(text)
    if value is None:
        return NO_ARGUMENTS if text == "null" else text
    return value if isinstance(value, str) else text
