"""Arguments that need no knowledge of a model are checked before anything is sent."""

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_client import AsyncClient, Client, InvalidArgumentError, Message, Timeout
from fathom_client._requests import generate_request, text_prompt

NOWHERE = "127.0.0.1:1"

REFUSED_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens is 0; it must be between 1 and 2147483647"),
    ({"max_tokens": 2**31}, "max_tokens is 2147483648"),
    ({"max_tokens": 1.5}, "max_tokens is 1.5; give an integer"),
    ({"max_tokens": True}, "max_tokens is True; give an integer"),
    ({"temperature": -0.1}, "temperature is -0.1; it must be at least 0 and at most 100"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"temperature": float("inf")}, "temperature is inf"),
    ({"temperature": "hot"}, "temperature is 'hot'; give a number"),
    ({"top_k": -1}, "top_k is -1"),
    ({"top_p": 0.0}, "top_p is 0; it must be above 0 and at most 1"),
    ({"top_p": 1.01}, "top_p is 1.01"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 2**64}, "seed is 18446744073709551616"),
    ({"repetition_penalty": 0}, "repetition_penalty is 0; it must be above 0"),
    ({"stop": "END"}, "stop is 'END'; give a list of strings"),
    ({"stop": ["a", ""]}, r"stop\[1\] is empty"),
    ({"min_tokens": -1}, "min_tokens is -1; it must be between 0 and"),
    ({"min_p": 1.5}, "min_p is 1.5; it must be at least 0 and at most 1"),
    ({"typical_p": 0}, "typical_p is 0; it must be above 0 and at most 1"),
    ({"presence_penalty": 2.5}, "presence_penalty is 2.5; it must be at least -2 and at most 2"),
    ({"frequency_penalty": -3}, "frequency_penalty is -3; it must be at least -2"),
    ({"logit_bias": [1]}, r"logit_bias is \[1\]; give a mapping"),
    ({"logit_bias": {"a": 1}}, "a token id of logit_bias is 'a'; give an integer"),
    ({"logit_bias": {-1: 1}}, "a token id of logit_bias is -1; it must be between 0"),
    ({"logit_bias": {5: 200}}, r"logit_bias\[5\] is 200; it must be at least -100 and at most 100"),
    ({"bad_words": "no"}, "bad_words is 'no'; give a list of strings"),
    ({"bad_words": ["a", ""]}, r"bad_words\[1\] is empty"),
    ({"stop_token_ids": "5"}, "stop_token_ids is '5'; give a list of token ids"),
    ({"stop_token_ids": [5, -1]}, r"stop_token_ids\[1\] is -1; it must be between 0"),
    ({"json_schema": 5}, "json_schema is a int; give a mapping"),
    ({"json_schema": {"a": {1, 2}}}, "json_schema cannot be written as JSON"),
    ({"json_schema": {"a": float("nan")}}, "json_schema cannot be written as JSON"),
    ({"regex": ""}, "regex is empty"),
    ({"regex": "\ud83d"}, "regex has the lone surrogate"),
    ({"choice": []}, "choice is empty; give at least one string"),
    ({"choice": "yes"}, "choice is 'yes'; give a list of strings"),
    ({"grammar": 7}, "grammar is a int; give a str"),
    ({"regex": "a", "choice": ["a"]}, "one structure; choose one of regex and choice"),
    ({"n": 0}, "n is 0; it must be between 1 and 128"),
    ({"best_of": 129}, "best_of is 129; it must be between 1 and 128"),
    ({"logprobs": 21}, "logprobs is 21; it must be between 0 and 20"),
    ({"prompt_logprobs": -1}, "prompt_logprobs is -1; it must be between 0 and 20"),
    ({"priority": 2**31}, "priority is 2147483648; it must be between -2147483648 and 2147483647"),
    ({"client": ""}, "client is empty"),
    ({"timeout_s": 0}, "timeout_s is 0; give a number of seconds above 0"),
    ({"timeout_s": float("nan")}, "timeout_s is nan"),
    ({"request_id": ""}, "request_id is empty"),
]

REFUSED_PROMPTS: list[tuple[Any, str]] = [
    ("", "prompt is empty"),
    ("ab\ud83dc", r"prompt has the lone surrogate U\+D83D at position 2"),
    ([], "prompt is empty"),
    ([1, -5], "prompt has the token id -5"),
    ([1, 2**31], "prompt has the token id 2147483648"),
    ([1.5], "prompt is a list of something else"),
    ([[1], [2]], "prompt is a list of something else"),
    (b"bytes", "prompt is a bytes of something else"),
    (7, "prompt is a int of something else"),
]

REFUSED_MESSAGES: list[tuple[Any, str]] = [
    ([], "messages is empty"),
    ("hello", "messages is a str"),
    ([{"role": "user"}], r"messages\[0\] has the content None"),
    ([Message("user", "a"), {"content": "b"}], r"messages\[1\] has the role None"),
    (["hello"], r"messages\[0\] is a str"),
    ([Message("user", "\udc00")], r"messages\[0\].content has the lone surrogate U\+DC00"),
    ([{"role": "user", "content": "a", "extra": {1, 2}}], "cannot be written as JSON"),
]

REFUSED_TEXTS: list[tuple[Any, str]] = [
    ([], "texts is empty"),
    ("", "texts is empty"),
    (["a", ""], r"texts\[1\] is empty"),
    (["a", 3], r"texts\[1\] is a int; give a str"),
    (["a\udfff"], r"texts\[0\] has the lone surrogate"),
    (5, "texts is a int"),
]

REFUSED_CLIENTS: list[tuple[dict[str, Any], str]] = [
    ({"url": "http://localhost:8000"}, "url is 'http://localhost:8000'; give HOST:PORT"),
    ({"url": "localhost"}, "url is 'localhost'"),
    ({"url": ""}, "url is ''"),
    ({"timeout": 0}, "timeout is 0"),
    ({"timeout": "5"}, "timeout is '5'"),
    ({"metadata": {"Key": "a"}}, "metadata has the name 'Key'"),
    ({"metadata": {"key": "ä"}}, "metadata 'key' has a value"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED_OPTIONS, ids=lambda value: str(value)[:40])
def test_option_out_of_range_is_named(options: dict[str, Any], message: str) -> None:
    """An option out of range is refused with its name, value and range, where no server is needed to know."""
    with Client(NOWHERE) as client:
        for call in (client.generate, client.stream):
            with pytest.raises(InvalidArgumentError, match=message):
                call("chat", "hello", **options)
        with pytest.raises(InvalidArgumentError, match=message):
            client.stream_chat("chat", [Message("user", "hello")], **options)


@pytest.mark.parametrize(("prompt", "message"), REFUSED_PROMPTS, ids=lambda value: ascii(value)[:40])
def test_prompt_that_cannot_be_sent_is_named(prompt: Any, message: str) -> None:
    """A prompt that is empty, not encodable or no token ids is refused, by both kinds of client."""
    with Client(NOWHERE) as client, pytest.raises(InvalidArgumentError, match=message):
        client.generate("chat", prompt)
    with pytest.raises(InvalidArgumentError, match=message):
        asyncio.run(AsyncClient(NOWHERE).generate("chat", prompt))


@pytest.mark.parametrize(("messages", "message"), REFUSED_MESSAGES, ids=lambda value: ascii(value)[:40])
def test_conversation_that_cannot_be_sent_is_named(messages: Any, message: str) -> None:
    """A conversation is refused with the number of the turn that is wrong."""
    with Client(NOWHERE) as client, pytest.raises(InvalidArgumentError, match=message):
        client.chat("chat", messages)


@pytest.mark.parametrize(("texts", "message"), REFUSED_TEXTS, ids=lambda value: ascii(value)[:40])
def test_text_that_cannot_be_embedded_is_named(texts: Any, message: str) -> None:
    """An embedding's text is refused with its position."""
    with Client(NOWHERE) as client, pytest.raises(InvalidArgumentError, match=message):
        client.embed("minilm", texts)


@pytest.mark.parametrize(("arguments", "message"), REFUSED_CLIENTS, ids=lambda value: str(value)[:40])
def test_client_that_cannot_work_is_refused(arguments: dict[str, Any], message: str) -> None:
    """An address, a timeout or metadata that cannot work is refused when the client is made."""
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidArgumentError, match=message):
            kind(**arguments)


def test_other_arguments_are_checked() -> None:
    """Model names, batch sizes and timeouts have their checks too."""
    with Client(NOWHERE) as client:
        with pytest.raises(InvalidArgumentError, match="model is empty"):
            client.generate("", "hello")
        with pytest.raises(InvalidArgumentError, match="batch_size is 0"):
            client.embed("minilm", "a", batch_size=0)
        with pytest.raises(InvalidArgumentError, match="timeout_s is -1"):
            client.wait_until_ready(timeout_s=-1)
        with pytest.raises(TypeError, match="unknown option temprature; valid: max_tokens, temperature"):
            client.generate("chat", "hello", temprature=1)  # type: ignore[call-arg]
    with pytest.raises(InvalidArgumentError, match=r"timeout\.connect_s is None"):
        Timeout(connect_s=None)  # type: ignore[arg-type]


def test_argument_error_is_a_value_error() -> None:
    """Code that knows only Python's own errors catches a wrong argument."""
    with Client(NOWHERE) as client, pytest.raises(ValueError, match="top_p"):
        client.generate("chat", "hello", top_p=2)


@given(st.text(min_size=1))
def test_any_encodable_text_is_taken_as_it_is(text: str) -> None:
    """A text travels as its UTF-8 bytes behind their length, whatever it holds."""
    _, _, length, contents = text_prompt(text)
    assert length == 1
    assert contents == len(text.encode()).to_bytes(4, "little") + text.encode()


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1))
def test_any_token_ids_are_taken_as_they_are(ids: list[int]) -> None:
    """Token ids travel as int32, from lists and from arrays of any integer dtype."""
    for given_ids in (ids, tuple(ids), np.array(ids), np.array(ids, dtype=np.uint64)):
        _, datatype, length, contents = text_prompt(given_ids)
        assert (datatype, length) == ("INT32", len(ids))
        assert np.frombuffer(contents, dtype="<i4").tolist() == ids


def test_limits_themselves_are_taken() -> None:
    """The ends of each range are inside it, and None means the server's choice."""
    options = {"max_tokens": 1, "temperature": 0, "top_k": 0, "top_p": 1.0, "seed": 2**64 - 1, "stop": None}
    request, timeout_s = generate_request("chat", text_prompt("a"), False, None, options)  # type: ignore[arg-type]
    assert timeout_s is None
    assert "timeout" not in request.parameters
    assert {"max_tokens", "temperature", "top_k", "top_p", "seed"} <= {tensor.name for tensor in request.inputs}
    assert "stop_words" not in {tensor.name for tensor in request.inputs}
