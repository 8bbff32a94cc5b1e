"""Llama 3's way: the answer is a JSON object ``{"name": …, "parameters": {…}}``, or several with semicolons between."""

from collections.abc import Collection
from typing import Final

from fathom_server.gateway.tools.call_object import CallObject
from fathom_server.gateway.tools.events import Content, ToolEvent

PYTHON_TAG: Final = "<|python_tag|>"
SEPARATORS: Final = " \t\r\n;"


class Llama3Reader:
    """A ``ToolCallReader`` of this format. An answer that does not begin with a call is text to its end.

    ``<|python_tag|>``, which may stand first, is a special token and does not show.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._call: CallObject | None = CallObject(0, names)
        self._calls = 0
        self._space = ""

    def push(self, text: str) -> list[ToolEvent]:
        """See ``ToolCallReader.push``."""
        events: list[ToolEvent] = []
        while text:
            text = self._read(text, events)
        return events

    def end(self) -> list[ToolEvent]:
        """See ``ToolCallReader.end``."""
        if self._call is None:
            return []
        self._call.end()
        given_back = self._space + self._call.taken if self._call.failed else ""
        return [Content(given_back)] if given_back.strip(SEPARATORS) or (given_back and not self._calls) else []

    def _read(self, text: str, events: list[ToolEvent]) -> str:
        if self._call is None:
            events.append(Content(text))
            return ""
        if not self._call.taken and not self._call.has_begun:
            stripped = text.lstrip(SEPARATORS if self._calls else SEPARATORS[:-1])
            self._space += text[: len(text) - len(stripped)]
            if not stripped:
                return ""
            text = stripped
        found, rest = self._call.push(text)
        events += found
        if self._call.failed:
            if given_back := self._space + self._call.taken:
                events.append(Content(given_back))
            self._call = None
        elif self._call.is_complete:
            self._calls, self._space = self._calls + 1, ""
            self._call = CallObject(self._calls, self._names)
        return rest
