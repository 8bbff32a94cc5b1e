"""Hermes's and Qwen's way: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, once for each call."""

from collections.abc import Collection
from typing import Final

from fathom_server.gateway.tools.call_object import CallObject
from fathom_server.gateway.tools.events import Content, ToolEvent
from fathom_server.gateway.tools.marked_text import SPACE, MarkedText

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"


class HermesReader:
    """A ``ToolCallReader`` of this format. What follows the mark and is no call stays text, the mark as well."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._text = MarkedText(OPEN, CLOSE)
        self._before_call = ""
        self._call: CallObject | None = None
        self._calls = 0

    def push(self, text: str) -> list[ToolEvent]:
        """See ``ToolCallReader.push``."""
        events: list[ToolEvent] = []
        while text:
            text = self._read_text(text, events) if self._call is None else self._read_call(self._call, text, events)
        return events

    def end(self) -> list[ToolEvent]:
        """See ``ToolCallReader.end``."""
        if self._call is not None:
            self._call.end()
            return self._given_back(self._call) if self._call.failed else []
        held = self._text.end()
        is_only_space = self._calls > 0 and not held.strip(SPACE)
        return [Content(held)] if held and not is_only_space else []

    def _read_text(self, text: str, events: list[ToolEvent]) -> str:
        passage = self._text.push(text)
        if passage.text:
            events.append(Content(passage.text))
        if passage.mark == OPEN:
            self._before_call = passage.space + OPEN
            self._call = CallObject(self._calls, self._names)
        elif passage.mark == CLOSE and not self._calls:
            events.append(Content(passage.space + CLOSE))
        return passage.rest

    def _read_call(self, call: CallObject, text: str, events: list[ToolEvent]) -> str:
        found, rest = call.push(text)
        events += found
        if call.failed:
            events += self._given_back(call)
            self._call = None
        elif call.is_complete:
            self._calls += 1
            self._call = None
        return rest

    def _given_back(self, call: CallObject) -> list[ToolEvent]:
        return [Content(self._before_call + call.taken)]
