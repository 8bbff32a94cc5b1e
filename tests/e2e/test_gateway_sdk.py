"""The official OpenAI SDK against the gateway of a real deployment: completions and chats."""

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from tests.serving import FathomServe

from fathom_client import Client

ASK: list[Any] = [{"role": "user", "content": "What is 84 - 2?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
TEXT = "<|im_start|>user\nWhat is 84 - 2?<|im_end|>\n<|im_start|>assistant\n"
ON = {"ignore_eos": True}
"""A text that is no chat ends at once for models that know chats alone, unless they are told to go on."""
SHOWN = {"ignore_eos": True, "skip_special_tokens": False}


@pytest.fixture(scope="module")
def url(openai_server: FathomServe) -> str:
    """Base of the API."""
    return f"http://127.0.0.1:{openai_server.openai_port}/v1"


@pytest.fixture(scope="module")
def sdk(url: str) -> Iterator[OpenAI]:
    """The SDK, which tries nothing twice."""
    with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def grpc(openai_server: FathomServe) -> Iterator[Client]:
    """Fathom's own client of the same deployment."""
    with Client(openai_server.url) as client:
        yield client


def test_models_are_listed(sdk: OpenAI) -> None:
    """The models that callers may name are listed, and none of their parts; each can be asked for by name."""
    models = sdk.models.list().data
    names = ["chat", "hermes", "llama", "mistral", "pythonic", "qwen3_coder", "small", "tooled"]
    assert [model.id for model in models] == names
    assert {model.object for model in models} == {"model"}
    assert sdk.models.retrieve("chat") == models[0]
    with pytest.raises(openai.NotFoundError, match="models that are ready") as refusal:
        sdk.models.retrieve("gpt")
    assert (refusal.value.param, refusal.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.NotFoundError, match="part of another model"):
        sdk.models.retrieve("chat_ensemble")


def test_a_chat_is_answered_as_over_grpc(sdk: OpenAI, grpc: Client) -> None:
    """Text, finish reason and numbers of tokens are those that the engine gives to its own client."""
    answer = sdk.chat.completions.create(model="chat", messages=ASK, **GREEDY)
    own = grpc.chat("chat", ASK, temperature=0.0, max_tokens=24)
    [choice] = answer.choices
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert (choice.message.role, choice.message.content) == ("assistant", own.text)
    assert own.text == "84 - 2 = 82"
    assert (choice.finish_reason, choice.logprobs, choice.message.tool_calls) == ("stop", None, None)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (own.num_input_tokens, own.num_output_tokens)
    assert answer.usage.total_tokens == own.num_input_tokens + own.num_output_tokens


def test_a_streamed_chat_is_the_same_chat(sdk: OpenAI) -> None:
    """The deltas joined are the whole answer; the role comes first, the reason last, and the usage behind it."""
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 64, "extra_body": ON}
    whole = sdk.chat.completions.create(model="chat", messages=ASK, **asked)
    stream = sdk.chat.completions.create(
        model="chat", messages=ASK, stream=True, stream_options={"include_usage": True}, **asked
    )
    *chunks, last = list(stream)
    assert {chunk.id for chunk in chunks} == {last.id}
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(chunk.usage is None for chunk in chunks)
    assert len(chunks) > 4, "it streams"
    assert (last.choices, last.usage) == ([], whole.usage)


def test_the_bytes_of_a_stream_are_openais(sdk: OpenAI) -> None:
    """Each event is one line of compact JSON between ``data: `` and an empty line, and [DONE] ends the stream."""
    with sdk.chat.completions.with_streaming_response.create(
        model="chat", messages=ASK, stream=True, **GREEDY
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        raw = b"".join(response.iter_bytes())
    *events, done, rest = raw.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    for event in events:
        assert event.startswith(b"data: {")
        chunk = json.loads(event.removeprefix(b"data: "))
        assert event == b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode()
        assert "usage" not in chunk


def test_several_answers_come_with_their_numbers(sdk: OpenAI) -> None:
    """``n`` sampled answers repeat with their seed, also a negative one, and stream with their indices."""
    asked: dict[str, Any] = {"model": "chat", "messages": ASK, "n": 3, "seed": -7, "temperature": 4, "max_tokens": 12}
    first, again = (sdk.chat.completions.create(**asked) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) > 1
    streamed = ["", "", ""]
    for chunk in sdk.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    other = sdk.chat.completions.create(**asked | {"seed": 8})
    assert [choice.message.content for choice in other.choices] != texts


def test_an_answer_ends_where_it_is_told(sdk: OpenAI) -> None:
    """Stop strings, one or several, and both names of the longest length."""
    asked: dict[str, Any] = {"model": "chat", "messages": ASK, "temperature": 0}
    for stop in ("=", ["nothing", "="]):
        choice = sdk.chat.completions.create(**asked, stop=stop).choices[0]
        assert (choice.message.content, choice.finish_reason) == ("84 - 2 ", "stop")
    for name in ("max_tokens", "max_completion_tokens"):
        answer = sdk.chat.completions.create(**asked, **{name: 2})
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 2


def test_log_probabilities_of_a_chat(sdk: OpenAI, grpc: Client) -> None:
    """Each token comes with its text, its bytes, its log-probability and the likeliest ones, whole and streamed."""
    asked: dict[str, Any] = {"model": "chat", "messages": ASK, "logprobs": True, "top_logprobs": 3, **GREEDY}
    choice = sdk.chat.completions.create(**asked).choices[0]
    own = grpc.chat("chat", ASK, temperature=0.0, max_tokens=24, logprobs=3)
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert own.logprobs is not None
    assert [token.logprob for token in tokens] == [token.logprob for token in own.logprobs]
    written = b"".join(bytes(token.bytes or []) for token in tokens).decode()
    assert written == f"{choice.message.content}<|im_end|>"
    assert "".join(token.token for token in tokens) == written
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token, "greedy"
    streamed = [
        token
        for chunk in sdk.chat.completions.create(**asked, stream=True)
        for token in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else None) or ()
    ]
    assert streamed == tokens
    bare = sdk.chat.completions.create(**asked | {"top_logprobs": None})
    assert bare.choices[0].logprobs is not None
    assert [token.top_logprobs for token in bare.choices[0].logprobs.content or ()] == [[]] * len(tokens)


def test_logits_can_be_pushed(sdk: OpenAI, grpc: Client) -> None:
    """A bias decides which token comes, and a penalty that it does not come twice."""
    token = grpc.generate("chat", "x", max_tokens=1, temperature=0.0).token_ids[0]
    asked: dict[str, Any] = {"model": "chat", "messages": ASK, "temperature": 0, "max_tokens": 4, "logprobs": True}
    answer = sdk.chat.completions.create(**asked, logit_bias={str(token): 100})
    assert answer.choices[0].logprobs is not None
    biased = [each.token for each in answer.choices[0].logprobs.content or ()]
    assert len(set(biased)) == 1
    plain = sdk.chat.completions.create(**asked | {"max_tokens": 30}, frequency_penalty=2, presence_penalty=2)
    own = grpc.chat("chat", ASK, temperature=0.0, max_tokens=30, frequency_penalty=2.0, presence_penalty=2.0)
    assert plain.choices[0].message.content == own.text


class Sum(BaseModel):
    """What the model is to fill in."""

    first: int
    second: int
    comment: str | None


def test_answers_have_the_structure_that_is_asked_for(sdk: OpenAI) -> None:
    """JSON objects, JSON schemas (through the SDK's own parser, too), and vLLM's further kinds of structure."""
    asked: dict[str, Any] = {"model": "small", "messages": ASK, "temperature": 1, "seed": 3, "max_tokens": 400}
    anything = sdk.chat.completions.create(**asked, response_format={"type": "json_object"})
    if anything.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(anything.choices[0].message.content or ""), dict)
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 5}, "kind": {"enum": ["a", "b"]}},
        "required": ["n", "kind"],
        "additionalProperties": False,
    }
    strict = {"type": "json_schema", "json_schema": {"name": "pair", "schema": schema, "strict": True}}
    given = json.loads(sdk.chat.completions.create(**asked, response_format=strict).choices[0].message.content or "")
    assert given.keys() == {"n", "kind"}
    assert 3 <= given["n"] <= 5
    bounded = asked | {"max_tokens": 800, "extra_body": {"repetition_penalty": 1.3}}
    parsed = sdk.chat.completions.parse(**bounded, response_format=Sum)
    if parsed.choices[0].finish_reason == "stop":
        assert isinstance(parsed.choices[0].message.parsed, Sum)
    for extra, pattern in (
        ({"guided_choice": ["heads", "tails"]}, "heads|tails"),
        ({"guided_regex": "[0-9]{3}-[a-f]{2}"}, "[0-9]{3}-[a-f]{2}"),
        ({"structured_outputs": {"choice": ["north"]}}, "north"),
        ({"guided_grammar": 'start: "yes" | "no"'}, "yes|no"),
        ({"guided_json": {"type": "integer", "minimum": 7, "maximum": 7}}, "7"),
    ):
        text = sdk.chat.completions.create(**asked, extra_body=extra).choices[0].message.content
        assert re.fullmatch(pattern, text or ""), (extra, text)


def test_contents_may_come_in_parts(sdk: OpenAI) -> None:
    """Text parts are the text, a developer is the system, and what answers hold may be sent back as it came."""
    system = {"role": "developer", "content": [{"type": "text", "text": "You are Fathom, a small language model."}]}
    question = {"role": "user", "content": [{"type": "text", "text": "What is 18 + 8?"}]}
    plain = [
        {"role": "system", "content": "You are Fathom, a small language model."},
        {"role": "user", "content": "What is 18 + 8?"},
    ]
    answers = [
        sdk.chat.completions.create(model="chat", messages=messages, **GREEDY)  # type: ignore[arg-type]
        for messages in ([system, question], plain)
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content == "18 + 8 = 26"
    assert answers[0].usage == answers[1].usage
    history: list[Any] = [*plain, answers[0].choices[0].message, *ASK]
    followed = sdk.chat.completions.create(model="chat", messages=history, **GREEDY)
    dumped: list[Any] = [*plain, answers[0].choices[0].message.model_dump(), *ASK]
    assert followed.choices == sdk.chat.completions.create(model="chat", messages=dumped, **GREEDY).choices


def test_texts_are_gone_on_with(sdk: OpenAI, grpc: Client) -> None:
    """A prompt is a text, token ids, or a list of either; answers come in order with their indices."""
    own = grpc.generate("chat", TEXT, temperature=0.0, max_tokens=8, ignore_eos=True)
    ids = list(grpc.tokenize("chat", TEXT).token_ids)
    for prompt in (TEXT, ids):
        answer = sdk.completions.create(model="chat", prompt=prompt, temperature=0, max_tokens=8, extra_body=ON)
        assert answer.object == "text_completion"
        assert [choice.text for choice in answer.choices] == [own.text]
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (own.num_input_tokens, 8)
    other = grpc.generate("chat", "One two", temperature=0.0, max_tokens=8, ignore_eos=True)
    for prompts in ([TEXT, "One two"], [ids, list(grpc.tokenize("chat", "One two").token_ids)]):
        answer = sdk.completions.create(model="chat", prompt=prompts, temperature=0, max_tokens=8, extra_body=ON)
        assert [(choice.index, choice.text) for choice in answer.choices] == [(0, own.text), (1, other.text)]
        assert answer.usage is not None
        assert answer.usage.total_tokens == own.num_input_tokens + other.num_input_tokens + 16
    default = sdk.completions.create(model="chat", prompt=TEXT, temperature=0, extra_body=ON)
    assert default.usage is not None
    assert default.usage.completion_tokens == 16, "OpenAI's default"


def test_streamed_completions_are_the_whole_ones(sdk: OpenAI) -> None:
    """Of several prompts and answers each chunk says to which it belongs; joined they are the answers at once."""
    asked: dict[str, Any] = {
        "model": "chat",
        "prompt": [TEXT, "One two"],
        "n": 2,
        "seed": 5,
        "max_tokens": 10,
        "echo": True,
        "extra_body": ON,
    }
    whole = sdk.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert [choice.text.startswith(TEXT) for choice in whole.choices] == [True, True, False, False]
    texts, reasons = [""] * 4, [""] * 4
    *chunks, last = list(sdk.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for chunk in chunks:
        [choice] = chunk.choices
        texts[choice.index] += choice.text
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert (last.choices, last.usage) == ([], whole.usage)


def test_log_probabilities_of_a_completion(sdk: OpenAI, grpc: Client) -> None:
    """Tokens, their places in the text and their log-probabilities; with echo the prompt's, as evaluators need them."""
    asked: dict[str, Any] = {
        "model": "chat",
        "prompt": TEXT,
        "temperature": 0,
        "max_tokens": 6,
        "logprobs": 2,
        "extra_body": SHOWN,
    }
    [choice] = sdk.completions.create(**asked).choices
    logprobs = choice.logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or ()) == choice.text
    assert len(logprobs.tokens or ()) == len(logprobs.token_logprobs or ()) == 6
    for token, own, top in zip(
        logprobs.tokens or (), logprobs.token_logprobs or (), logprobs.top_logprobs or (), strict=True
    ):
        assert len(top) == 2
        assert max(top, key=top.__getitem__) == token
        assert top[token] == own
    for token, offset in zip(logprobs.tokens or (), logprobs.text_offset or (), strict=True):
        assert choice.text.startswith(token, offset)
    [echoed] = sdk.completions.create(**asked, echo=True).choices
    own = grpc.generate(
        "chat",
        TEXT,
        temperature=0.0,
        max_tokens=6,
        logprobs=2,
        prompt_logprobs=2,
        ignore_eos=True,
        skip_special_tokens=False,
    )
    assert echoed.text == TEXT + choice.text
    assert echoed.logprobs is not None
    assert own.prompt_logprobs is not None
    assert "".join(echoed.logprobs.tokens or ()) == echoed.text
    expected = [token.logprob for token in (*own.prompt_logprobs, *(own.logprobs or ()))]
    assert echoed.logprobs.token_logprobs == expected
    assert expected[0] is None
    for token, offset in zip(echoed.logprobs.tokens or (), echoed.logprobs.text_offset or (), strict=True):
        assert echoed.text.startswith(token, offset)
    streamed = [part for part in sdk.completions.create(**asked, stream=True) if part.choices[0].logprobs]
    offsets = [place for part in streamed for place in part.choices[0].logprobs.text_offset or ()]  # type: ignore[union-attr]
    assert offsets == logprobs.text_offset


def test_the_best_of_several_are_given(sdk: OpenAI, grpc: Client) -> None:
    """``best_of`` and vLLM's further parameters mean what they mean to the engine."""
    further = {"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.1, **ON}
    answer = sdk.completions.create(
        model="chat", prompt=TEXT, n=2, best_of=4, seed=11, temperature=1.2, top_p=0.9, max_tokens=6, extra_body=further
    )
    own = grpc.generate(
        "chat",
        TEXT,
        n=2,
        best_of=4,
        seed=11,
        temperature=1.2,
        top_p=0.9,
        max_tokens=6,
        top_k=5,
        min_p=0.01,
        repetition_penalty=1.1,
        ignore_eos=True,
    )
    assert [choice.text for choice in answer.choices] == [choice.text for choice in own.choices]


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"temperatur": 1}, "temperatur", "temperatur is not a field"),
        ({"messages": [{"role": "user", "content": "x", "mood": "gay"}]}, "messages[0].mood", "not a field"),
        ({"functions": []}, "functions", "not a field"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]", "'robot'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
            "'image_url' is not taken; models here read text alone",
        ),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"temperature": 101}, "temperature", "less than or equal to 100"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 5000}, "max_tokens", "leaves .* of the context"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "messages", "the prompt has .* tokens"),
        ({"guided_json": {"type": "integr"}}, "guided_json", "integr"),
        ({"n": 2, "temperature": 0}, "n", "same answer each time"),
        ({"stop": [""]}, "stop[0]", "at least 1 character"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "vocabulary has the ids"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs is not true"),
        ({"response_format": {"type": "yaml"}}, "response_format", "'yaml'"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integr"}}}},
            "response_format",
            "integr",
        ),
        ({"response_format": {"type": "json_object"}, "guided_regex": "x"}, None, "one structure"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages", "unknown role tool"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "knows no tools"),
        ({"tool_choice": "auto"}, "tool_choice", "without tools"),
        ({"store": True}, "store", "False"),
    ],
)
def test_what_is_wrong_is_named(sdk: OpenAI, body: dict[str, Any], param: str | None, told: str) -> None:
    """A chat that cannot be is a BadRequestError that names the field, whole or streamed."""
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=told) as refusal:
            sdk.post(
                "/chat/completions",
                body={"model": "chat", "messages": ASK, "stream": stream, **body},
                cast_to=dict,
            )
        assert (refusal.value.param, refusal.value.type) == (param, "invalid_request_error")


def test_completions_name_what_is_wrong(sdk: OpenAI) -> None:
    """Likewise for plain completions; a model that there is not is a NotFoundError."""
    for options, told in (
        ({"suffix": "end"}, "suffix is not supported"),
        ({"prompt": ""}, "at least 1 character"),
        ({"prompt": [5, -1]}, "greater than or equal to 0"),
        ({"prompt": [99999]}, "vocabulary has the ids"),
        ({"prompt": ["x"] * 65}, "at most 64"),
        ({"prompt": "word " * 3000}, "the prompt has .* tokens"),
        ({"echo": True, "logprobs": 1, "stream": True}, "echo with logprobs is not streamed"),
        ({"n": 1, "best_of": 2, "stream": True}, "best are known at the end"),
        ({"n": 3, "best_of": 2}, "best_of must be at least n"),
        ({"stream_options": {"include_usage": True}}, "stream is not true"),
    ):
        with pytest.raises(openai.BadRequestError, match=told):
            sdk.completions.create(**{"model": "chat", "prompt": "x", **options})  # type: ignore[call-overload]
    for call in (
        lambda: sdk.completions.create(model="gpt", prompt="x"),
        lambda: sdk.chat.completions.create(model="gpt", messages=ASK, stream=True),
    ):
        with pytest.raises(openai.NotFoundError, match="models that are ready: chat") as refusal:
            call()
        assert refusal.value.code == "model_not_found"


async def test_the_async_sdk_streams_many_at_once(url: str, grpc: Client) -> None:
    """Twenty chats at once over one client are each answered as alone."""
    import asyncio

    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as sdk:

        async def ask(number: int) -> str:
            stream = await sdk.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": f"What is {number} + 7?"}], stream=True, **GREEDY
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        answers = await asyncio.gather(*map(ask, range(20)))
    for number in (0, 13, 19):
        own = grpc.chat("chat", [{"role": "user", "content": f"What is {number} + 7?"}], temperature=0.0, max_tokens=24)
        assert answers[number] == own.text
