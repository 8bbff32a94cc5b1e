"""The turns of a conversation, by role."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fathom_server.gateway.schemas.sampling import StrictModel, Text


class TextPart(StrictModel):
    """A part of a content that is text."""

    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _refuse_others(cls, given: Any) -> Any:
        kind = given.get("type") if isinstance(given, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise ValueError(f"a part of the type {kind!r} is not taken; models here read text alone")
        return given


Content = str | Annotated[list[TextPart], Field(min_length=1)]


class SystemMessage(StrictModel):
    """Instructions; ``developer`` is OpenAI's newer name for the role."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(StrictModel):
    """What the user says."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(StrictModel):
    """A function that was called, and its arguments as JSON."""

    name: Text
    arguments: str


class EarlierCall(StrictModel):
    """A call of an earlier turn."""

    id: Text
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(StrictModel):
    """What the model said: a text, calls, or both. Empty fields that OpenAI's answers have are taken as they come."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[EarlierCall] | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None

    @field_validator("tool_calls")
    @classmethod
    def _check_arguments(cls, calls: list[EarlierCall] | None) -> list[EarlierCall] | None:
        for call in calls or ():
            arguments_of(call)
        return calls

    @model_validator(mode="after")
    def _check(self) -> "AssistantMessage":
        if self.content is None and not self.tool_calls and self.refusal is None:
            raise ValueError("an assistant's message has neither content nor tool_calls; give one of them")
        return self


class ToolMessage(StrictModel):
    """What a tool answered to a call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Text


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The turns as chat templates take them: contents as strings, arguments as objects, tools' answers with names."""
    names: dict[str, str] = {}
    turns: list[dict[str, Any]] = []
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": _text(message.content)}
        match message:
            case SystemMessage():
                turn["role"] = "system"
            case AssistantMessage(tool_calls=calls, refusal=refusal):
                turn["content"] = turn["content"] or refusal or ""
                if calls:
                    names |= {call.id: call.function.name for call in calls}
                    turn["tool_calls"] = [_call(call) for call in calls]
            case ToolMessage(tool_call_id=call_id):
                turn["tool_call_id"] = call_id
                if call_id in names:
                    turn["name"] = names[call_id]
            case _:
                pass
        if not isinstance(message, ToolMessage) and message.name is not None:
            turn["name"] = message.name
        turns.append(turn)
    return turns


def arguments_of(call: EarlierCall) -> dict[str, Any]:
    """The arguments of a call as an object; raises ValueError."""
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the arguments of the call {call.id!r} are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of the call {call.id!r} are a JSON {type(arguments).__name__}, not an object")
    return arguments


def _call(call: EarlierCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": arguments_of(call)}
    return {"id": call.id, "type": "function", "function": function}


def _text(content: str | list[TextPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content)  # as vLLM joins them
