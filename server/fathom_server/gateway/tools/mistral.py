"""Mistral's way, behind ``[TOOL_CALLS]``: a JSON list of calls, or since its eleventh tokenizer a name and arguments.

The second form is ``[TOOL_CALLS]name[ARGS]{…}``, once a call; some have ``[CALL_ID]…`` between, or no ``[ARGS]``. The
marks are special tokens: answers must be asked for with ``skip_special_tokens`` false.
"""

import re
from collections.abc import Collection
from typing import Final

from fathom_server.gateway.tools.call_list import CallListReader
from fathom_server.gateway.tools.events import CallArguments, CallBegin, Content, ToolEvent, call_id
from fathom_server.gateway.tools.json_value import JsonValue
from fathom_server.gateway.tools.marked_text import SPACE, MarkedText

OPEN: Final = "[TOOL_CALLS]"
_HEAD: Final = re.compile(r"\s*(?P<name>[^\[{]+?)\s*(?:\[CALL_ID\][^\[{]*)?(?:\[ARGS\]\s*)?\{")
_LONGEST_HEAD: Final = 256


class MistralReader:
    """A ``ToolCallReader`` of both forms. What follows the mark and is no call stays text, the mark as well."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._text = MarkedText(OPEN)
        self._calls = 0
        self._space = ""
        self._head: str | None = None
        self._list: CallListReader | None = None
        self._arguments: JsonValue | None = None

    def push(self, text: str) -> list[ToolEvent]:
        """See ``ToolCallReader.push``."""
        events: list[ToolEvent] = []
        while text:
            if self._list is not None:
                text = self._read_list(self._list, text, events)
            elif self._arguments is not None:
                text = self._read_arguments(self._arguments, text, events)
            elif self._head is not None:
                text = self._read_head(text, events)
            else:
                text = self._read_text(text, events)
        return events

    def end(self) -> list[ToolEvent]:
        """See ``ToolCallReader.end``."""
        if self._list is not None:
            return self._list.end()
        if self._head is not None:
            return [Content(self._space + OPEN + self._head)]
        held = self._text.end()
        return [Content(held)] if held and not (self._calls and not held.strip(SPACE)) else []

    def _read_text(self, text: str, events: list[ToolEvent]) -> str:
        passage = self._text.push(text)
        if passage.text:
            events.append(Content(passage.text))
        if passage.mark is not None:
            self._head, self._space = "", passage.space
        return passage.rest

    def _read_head(self, text: str, events: list[ToolEvent]) -> str:
        """Read what follows the mark, a character at a time, until it is clear which form it is, or that it is none."""
        for place, character in enumerate(text):
            head = self._head = (self._head or "") + character
            if head.lstrip(SPACE) == "[":
                self._head, self._list = None, CallListReader(self._names, self._calls)
                return head + text[place + 1 :]
            match = _HEAD.fullmatch(head)
            if match is not None and match["name"] in self._names:
                events.append(CallBegin(self._calls, call_id(), match["name"]))
                self._head, self._arguments = None, JsonValue()
                return text[place:]
            if match is not None or len(head) > _LONGEST_HEAD or "\n" in head.strip(SPACE):
                events.append(Content(self._space + OPEN + head[:-1]))
                self._head = None
                return text[place:]
        return ""

    def _read_list(self, calls: CallListReader, text: str, events: list[ToolEvent]) -> str:
        found, text = calls.read(text)
        events += found
        if calls.is_complete:
            self._calls, self._list = calls.calls, None
        return text

    def _read_arguments(self, arguments: JsonValue, text: str, events: list[ToolEvent]) -> str:
        taken, text = arguments.push(text)
        if taken:
            events.append(CallArguments(self._calls, taken))
        if arguments.is_complete:
            self._calls += 1
            self._arguments = None
        return text
