"""Answers of a chat in OpenAI's form, whole or as the chunks of a stream."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from fathom_client import GenerationChoice, GenerationChunk, protocol
from fathom_server.gateway.answers.logprobs import chat_logprobs
from fathom_server.gateway.tools.events import CallArguments, CallBegin, Content, ToolCallReader, ToolEvent
from fathom_server.gateway.tools.tool_use import ToolUse

FINISH_TOOL_CALLS: Final = "tool_calls"


class ChatAnswerWriter:
    """Writes the answers to one request; ``tools`` is what it offers of them."""

    def __init__(self, request_id: str, model: str, tools: ToolUse | None) -> None:
        self._head = {"id": f"chatcmpl-{request_id}", "created": int(time.time()), "model": model}
        self._tools = tools

    def whole(self, choices: Iterable[GenerationChoice], usage: dict[str, Any]) -> dict[str, Any]:
        """A whole answer."""
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choice(choice) for choice in choices],
            "usage": usage,
        }

    def chunk(self, choices: list[dict[str, Any]], further: dict[str, Any]) -> dict[str, Any]:
        """A chunk of a stream."""
        return {**self._head, "object": "chat.completion.chunk", "choices": choices, **further}

    def stream_of_choice(self) -> "ChoiceStream":
        """What writes one choice of a stream."""
        return ChoiceStream(self._tools)

    def _choice(self, choice: GenerationChoice) -> dict[str, Any]:
        found = AnswerReader(self._tools)
        content, calls = "", list[dict[str, Any]]()
        for event in (*found.push(choice.text), *found.end()):
            match event:
                case Content(text):
                    content += text
                case CallBegin(_, call_id, name):
                    calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}})
                case CallArguments(_, text):
                    calls[-1]["function"]["arguments"] += text
        message: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None}
        message["refusal"] = None
        if calls:
            message["tool_calls"] = calls
        return {
            "index": choice.index,
            "message": message,
            "logprobs": None if choice.logprobs is None else chat_logprobs(choice.logprobs),
            "finish_reason": found.finish_reason(choice.finish_reason),
        }


class AnswerReader:
    """Finds calls in one answer, if tools were offered, and no more of them than the request takes."""

    def __init__(self, tools: ToolUse | None) -> None:
        self._tools = tools
        self._reader: ToolCallReader | None = None if tools is None else tools.reader()
        self._has_calls = False

    def push(self, text: str) -> list[ToolEvent]:
        """What is certain after the next piece."""
        if self._reader is None:
            return [Content(text)] if text else []
        return self._taken(self._reader.push(text)) if text else []

    def end(self) -> list[ToolEvent]:
        """What remains when the answer has ended."""
        return [] if self._reader is None else self._taken(self._reader.end())

    def finish_reason(self, reason: str) -> str:
        """Why the answer ended: for calls, if it has any that the request did not name itself (as OpenAI has it)."""
        is_asked = self._tools is not None and self._tools.forced is not None
        return FINISH_TOOL_CALLS if self._has_calls and reason == protocol.FINISH_STOP and not is_asked else reason

    def _taken(self, events: list[ToolEvent]) -> list[ToolEvent]:
        self._has_calls = self._has_calls or any(isinstance(event, CallBegin) for event in events)
        if self._tools is None or not self._tools.is_single:
            return events
        return [event for event in events if isinstance(event, Content) or event.index == 0]


class ChoiceStream:
    """One choice as it streams: its chunks' entries in ``choices``."""

    def __init__(self, tools: ToolUse | None) -> None:
        self._reader = AnswerReader(tools)
        self._has_begun = False

    def push(self, index: int, chunk: GenerationChunk) -> Iterator[dict[str, Any]]:
        """The entries that the next part of the answer makes; ``index`` is the choice's."""
        if not self._has_begun:
            self._has_begun = True
            yield _entry(index, {"role": "assistant", "content": "", "refusal": None})
        events = self._reader.push(chunk.text)
        if chunk.finish_reason is not None:
            events += self._reader.end()
        logprobs = None if not chunk.logprobs else chat_logprobs(chunk.logprobs)
        if logprobs is not None and not events:
            yield _entry(index, {"content": ""}, logprobs)
        for event in events:
            yield _entry(index, _delta(event), logprobs)
            logprobs = None
        if chunk.finish_reason is not None:
            yield _entry(index, {}, finish_reason=self._reader.finish_reason(chunk.finish_reason))


def _delta(event: ToolEvent) -> dict[str, Any]:
    match event:
        case Content(text):
            return {"content": text}
        case CallBegin(index, call_id, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
        case CallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _entry(
    index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
