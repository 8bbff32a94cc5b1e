"""Tools through the official OpenAI SDK: calls that models write, calls that are demanded, and their answers."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessage
from tests.serving import FathomServe

ASK: list[Any] = [{"role": "user", "content": "How is the weather?"}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a place",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Łódź", "Oslo"]}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "strict": True,
}
ADD = {
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/digit"}, "b": {"$ref": "#/$defs/digit"}},
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
    },
    "strict": True,
}
TOOLS: list[Any] = [{"type": "function", "function": WEATHER}, {"type": "function", "function": ADD}]
CALLS = {
    "hermes": [("get_weather", {"city": "Łódź"}), ("add", {"a": 2, "b": 3})],
    "llama": [("get_weather", {"city": "Paris", "unit": "C"})],
    "mistral": [("add", {"a": 2, "b": 3}), ("get_weather", {"city": "Oslo"})],
    "pythonic": [("get_weather", {"city": "Łódź", "unit": "C"}), ("add", {"a": 2, "b": 3})],
    "qwen3_coder": [("get_weather", {"city": "Łódź"}), ("add", {"a": 2, "b": 3})],
}
CONTENT = {"hermes": "I ask.", "llama": None, "mistral": "So:", "pythonic": None, "qwen3_coder": "I ask."}


@pytest.fixture(scope="module")
def sdk(openai_server: FathomServe) -> Iterator[OpenAI]:
    """The SDK, which tries nothing twice."""
    base = f"http://127.0.0.1:{openai_server.openai_port}/v1"
    with OpenAI(base_url=base, api_key="none", max_retries=0) as client:
        yield client


def calls_of(message: ChatCompletionMessage) -> list[tuple[str, Any]]:
    """A message's calls: names and arguments."""
    return [
        (call.function.name, json.loads(call.function.arguments))
        for call in message.tool_calls or ()
        if call.type == "function"
    ]


def streamed(sdk: OpenAI, **asked: Any) -> tuple[ChatCompletionMessage, str, int]:
    """A streamed answer as the SDK puts it together, its finish reason, and the number of its chunks with calls."""
    with sdk.chat.completions.stream(**asked) as stream:
        with_calls = sum(
            event.type == "chunk" and any(choice.delta.tool_calls for choice in event.chunk.choices) for event in stream
        )
        choice = stream.get_final_completion().choices[0]
    return choice.message, choice.finish_reason, with_calls


@pytest.mark.parametrize("model", [*CALLS])
def test_calls_that_models_write_are_read(sdk: OpenAI, model: str) -> None:
    """Each template's calls come as ``tool_calls``, whole and piece by piece, and what is said besides as content."""
    asked: dict[str, Any] = {"model": model, "messages": ASK, "tools": TOOLS, "temperature": 0}
    choice = sdk.chat.completions.create(**asked).choices[0]
    assert calls_of(choice.message) == CALLS[model]
    assert (choice.message.content, choice.finish_reason) == (CONTENT[model], "tool_calls")
    ids = [call.id for call in choice.message.tool_calls or ()]
    assert len(set(ids)) == len(ids)
    message, reason, with_calls = streamed(sdk, **asked)
    assert calls_of(message) == CALLS[model]
    assert ((message.content or None), reason) == (CONTENT[model], "tool_calls")
    assert with_calls >= 2 * len(CALLS[model]), "a call begins before its arguments"


def test_calls_are_left_alone_without_tools(sdk: OpenAI) -> None:
    """Without tools, with ``tool_choice`` none, and of functions that were not offered, the text is the answer."""
    asked: dict[str, Any] = {"model": "hermes", "messages": ASK, "temperature": 0}
    other = [{"type": "function", "function": {"name": "other"}}]
    for options in ({}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": other}):
        choice = sdk.chat.completions.create(**asked, **options).choices[0]
        assert (choice.message.tool_calls, choice.finish_reason) == (None, "stop")
        assert (choice.message.content or "").startswith('I ask.\n<tool_call>\n{"name": "get_weather"')


def test_no_more_than_one_call_where_one_is_wanted(sdk: OpenAI) -> None:
    """``parallel_tool_calls`` false gives the first call alone."""
    asked: dict[str, Any] = {"model": "hermes", "messages": ASK, "tools": TOOLS, "temperature": 0}
    choice = sdk.chat.completions.create(**asked, parallel_tool_calls=False).choices[0]
    assert calls_of(choice.message) == CALLS["hermes"][:1]


def test_a_cut_answer_says_so(sdk: OpenAI) -> None:
    """An answer whose length ends inside a call keeps what there is of it, and ends for its length."""
    asked: dict[str, Any] = {"model": "hermes", "messages": ASK, "tools": TOOLS, "temperature": 0, "max_tokens": 40}
    choice = sdk.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "length"
    [call] = choice.message.tool_calls or ()
    assert call.type == "function"
    assert '{"city": "Łódź"}'.startswith(call.function.arguments)


@pytest.mark.parametrize("seed", range(4))
def test_a_demanded_call_comes_and_fits(sdk: OpenAI, seed: int) -> None:
    """``required`` gives calls of offered functions with arguments that fit, from a model that never calls."""
    asked: dict[str, Any] = {"model": "tooled", "messages": ASK, "tools": TOOLS, "seed": seed, "max_tokens": 200}
    choice = sdk.chat.completions.create(**asked, tool_choice="required", parallel_tool_calls=False).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [(name, arguments)] = calls_of(choice.message)
    check_fit(name, arguments)
    message, reason, _ = streamed(sdk, **asked, tool_choice="required", parallel_tool_calls=False)
    assert reason == "tool_calls"
    assert calls_of(message) == [(name, arguments)]


def check_fit(name: str, arguments: dict[str, Any]) -> None:
    """Hold a call's arguments against the schema of its function."""
    if name == "add":
        assert arguments.keys() == {"a", "b"}
        assert all(0 <= arguments[each] <= 9 for each in "ab")
    else:
        assert name == "get_weather"
        assert arguments.keys() == {"city", "unit"}
        assert arguments["city"] in ("Łódź", "Oslo")


def test_a_named_function_is_called(sdk: OpenAI) -> None:
    """A function that the request names is called once with fitting arguments; the reason is stop, as OpenAI has it."""
    asked: dict[str, Any] = {
        "model": "tooled",
        "messages": ASK,
        "tools": TOOLS,
        "max_tokens": 100,
        "seed": 5,
        "tool_choice": {"type": "function", "function": {"name": "add"}},
    }
    choice = sdk.chat.completions.create(**asked).choices[0]
    [(name, arguments)] = calls_of(choice.message)
    check_fit(name, arguments)
    assert (name, choice.finish_reason) == ("add", "stop")
    message, reason, _ = streamed(sdk, **asked)
    assert (calls_of(message), reason) == ([(name, arguments)], "stop")


@pytest.mark.parametrize("model", ["hermes", "llama", "mistral"])
def test_an_answer_goes_back_to_the_model(sdk: OpenAI, model: str) -> None:
    """Calls and the tools' answers are turns of the next request; each template takes what its own calls were."""
    one = [{"type": "function", "function": WEATHER}]
    asked: dict[str, Any] = {"model": model, "tools": one if model == "llama" else TOOLS, "temperature": 0}
    message = sdk.chat.completions.create(messages=ASK, **asked).choices[0].message
    answers: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'} for call in message.tool_calls or ()
    ]
    follow_up = sdk.chat.completions.create(messages=[*ASK, message, *answers], **asked)
    before = sdk.chat.completions.create(messages=ASK, **asked)
    assert follow_up.usage is not None
    assert before.usage is not None
    assert follow_up.usage.prompt_tokens > before.usage.prompt_tokens


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"tools": [TOOLS[0], TOOLS[0]]}, None, "two functions of the name 'get_weather'"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type", "'function'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "pattern"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "rm"}}}, "tool_choice", "'rm'"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "response_format", "contradicts tools"),
        (
            {
                "messages": [
                    *ASK,
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {"id": "1", "type": "function", "function": {"name": "add", "arguments": "[1]"}}
                        ],
                    },
                ]
            },
            "messages[1].tool_calls",
            "a JSON list, not an object",
        ),
        (
            {
                "model": "tooled",
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "nothing"}}}],
                "tool_choice": "required",
            },
            "tools",
            "nothing",
        ),
    ],
)
def test_tools_that_are_wrong_are_named(sdk: OpenAI, body: dict[str, Any], param: str | None, told: str) -> None:
    """Tools that cannot be are a BadRequestError that says which and why."""
    with pytest.raises(openai.BadRequestError, match=told) as refusal:
        sdk.post("/chat/completions", body={"model": "hermes", "messages": ASK, **body}, cast_to=dict)
    assert refusal.value.param == param
