"""A JSON list of calls, ``[{"name": …, "arguments": {…}}, …]``, read while it comes."""

from collections.abc import Collection
from typing import Final

from fathom_server.gateway.tools.call_object import CallObject
from fathom_server.gateway.tools.events import Content, ToolEvent

_BETWEEN: Final = " \t\r\n,"


class CallListReader:
    """A ``ToolCallReader`` of an answer that is such a list, as ``tool_choice`` required forces it.

    ``first`` is the number of its first call. What is no list of calls is text.
    """

    def __init__(self, names: Collection[str], first: int = 0) -> None:
        self._names = names
        self._calls = first
        self._first = first
        self._taken = ""
        self._is_open = False
        self._call: CallObject | None = None
        self.is_complete = False

    @property
    def calls(self) -> int:
        """The number of the call that would come next."""
        return self._calls

    def push(self, text: str) -> list[ToolEvent]:
        """See ``ToolCallReader.push``."""
        events, rest = self.read(text)
        return [*events, Content(rest)] if rest else events

    def read(self, text: str) -> tuple[list[ToolEvent], str]:
        """Read up to the list's end; return what was found, and what stands behind the end."""
        events: list[ToolEvent] = []
        while text and not self.is_complete:
            text = self._read_mark(text, events) if self._call is None else self._read_call(self._call, text, events)
        return events, text

    def end(self) -> list[ToolEvent]:
        """See ``ToolCallReader.end``."""
        if self._call is not None:
            self._call.end()
            if self._call.failed:
                self._taken += self._call.taken
        return self._given_back()

    def _read_mark(self, text: str, events: list[ToolEvent]) -> str:
        character = text[0]
        if character in _BETWEEN or (character == "[" and not self._is_open):
            self._is_open = self._is_open or character == "["
        elif character == "{" and self._is_open:
            self._call = CallObject(self._calls, self._names)
            return text
        else:
            self.is_complete = True
            if character != "]" or not self._is_open:
                events += self._given_back()
                return text
            self._taken = ""
        self._taken += "" if self.is_complete else character
        return text[1:]

    def _read_call(self, call: CallObject, text: str, events: list[ToolEvent]) -> str:
        found, text = call.push(text)
        events += found
        if call.failed:
            self._taken += call.taken
            self._call, self.is_complete = None, True
            events += self._given_back()
        elif call.is_complete:
            self._calls += 1
            self._taken = ""
            self._call = None
        return text

    def _given_back(self) -> list[ToolEvent]:
        """What was taken and is no call; the punctuation of a list that had calls is dropped."""
        taken, self._taken = self._taken, ""
        had_calls = self._calls > self._first or (self._call is not None and self._call.has_begun)
        return [] if not taken or (had_calls and not taken.strip(_BETWEEN + "[]")) else [Content(taken)]
