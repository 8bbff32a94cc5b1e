"""Whole answers: what goes over the wire, and what comes back."""

import json
import threading
from collections.abc import Callable

import pytest

from fathom_client import AsyncClient, Client, Generation, Message, protocol

from .texts import every_plane

FULL_OPTIONS = {
    "max_tokens": 7,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.25,
    "seed": 2**64 - 1,
    "repetition_penalty": 1.5,
    "stop": ["ENDE", "終わり"],
    "ignore_eos": True,
    "timeout_s": 30,
    "request_id": "request-7",
}


def test_answer_has_text_tokens_counts_and_names(client: Client) -> None:
    """A generation carries the text, its tokens, why it ended, both counts, the model and the request's id."""
    generation = client.generate("chat", "hello big world", max_tokens=9, request_id="mine")
    assert generation == Generation(
        text="hello big",
        token_ids=tuple(map(ord, "hello big")),
        finish_reason="length",
        num_input_tokens=15,
        num_output_tokens=9,
        model="chat",
        request_id="mine",
    )
    assert client.generate("chat", "hello").finish_reason == "stop"


async def test_sync_and_async_answer_alike(client: Client, async_client: AsyncClient) -> None:
    """Both clients get the same answer to the same request, of each kind."""
    options = {"max_tokens": 20, "request_id": "same"}
    messages = [Message("system", "be brief"), {"role": "user", "content": "hello there"}]
    assert client.generate("chat", "hello", **options) == await async_client.generate("chat", "hello", **options)
    assert client.generate("chat", [104, 105], **options) == await async_client.generate("chat", [104, 105], **options)
    assert client.chat("chat", messages, **options) == await async_client.chat("chat", messages, **options)
    with client.stream("chat", "hello big world", **options) as stream:
        chunks = list(stream)
    assert chunks == [chunk async for chunk in async_client.stream("chat", "hello big world", **options)]
    with client.stream_chat("chat", messages, **options) as stream:
        chunks = list(stream)
    assert chunks == [chunk async for chunk in async_client.stream_chat("chat", messages, **options)]


def test_tensors_are_those_of_the_protocol(client: Client, ordered: Callable[..., str]) -> None:
    """Every option arrives at the model under the protocol's name, datatype and shape."""
    arrived = json.loads(client.generate("chat", ordered("", echo=True), **FULL_OPTIONS).text)
    dtypes = {"BYTES": "object", "INT32": "int32", "FP32": "float32", "UINT64": "uint64", "BOOL": "bool"}
    specs = {spec.name: spec for spec in protocol.GENERATE_INPUTS}
    expected = {
        protocol.MAX_TOKENS: [7],
        protocol.TEMPERATURE: [0.5],
        protocol.TOP_K: [3],
        protocol.TOP_P: [0.25],
        protocol.SEED: [2**64 - 1],
        protocol.REPETITION_PENALTY: [1.5],
        protocol.STOP_WORDS: ["ENDE", "終わり"],
        protocol.SAMPLING_PARAMETERS: ['{"ignore_eos": true}'],
        protocol.STREAM: [False],
        protocol.EXCLUDE_INPUT_IN_OUTPUT: [True],
        protocol.RETURN_FINISH_REASON: [True],
        protocol.RETURN_NUM_INPUT_TOKENS: [True],
        protocol.RETURN_NUM_OUTPUT_TOKENS: [True],
        protocol.RETURN_OUTPUT_IDS: [True],
    }
    assert {name: tensor["values"] for name, tensor in arrived["inputs"].items()} == expected
    for name, tensor in arrived["inputs"].items():
        assert tensor["dtype"] == dtypes[specs[name].datatype]
        assert tensor["shape"] == [len(expected[name])]
    assert arrived["id"] == "request-7"


def test_what_is_left_out_is_not_sent(client: Client, ordered: Callable[..., str]) -> None:
    """Options that the caller leaves out are left to the server."""
    arrived = json.loads(client.generate("chat", ordered("", echo=True)).text)
    flags = {name for name in arrived["inputs"] if name.startswith("return_")}
    assert arrived["inputs"].keys() - flags == {protocol.STREAM, protocol.EXCLUDE_INPUT_IN_OUTPUT}
    assert len(arrived["id"]) == 32


@pytest.mark.parametrize(
    ("client_timeout", "timeout_s", "arrives_us"), [(5.0, None, 5_000_000), (5.0, 0.25, 250_000), (None, None, 0)]
)
def test_time_limit_arrives_at_the_model(
    url: str, ordered: Callable[..., str], client_timeout: float | None, timeout_s: float | None, arrives_us: int
) -> None:
    """The limit travels as KServe's ``timeout`` in microseconds: the request's own before the client's."""
    with Client(url, timeout=client_timeout) as client:
        arrived = json.loads(client.generate("chat", ordered("", echo=True), timeout_s=timeout_s).text)
    assert arrived["timeout_us"] == arrives_us


def test_every_unicode_plane_goes_there_and_back(client: Client) -> None:
    """Text of every Unicode plane comes back as it was sent, whole, streamed and in a conversation."""
    text = every_plane()
    assert client.generate("chat", text).text == text
    assert client.chat("chat", [Message("user", text)]).text == text
    with client.stream("chat", text) as stream:
        assert "".join(chunk.text for chunk in stream) == text
    assert client.generate("chat", [ord(character) for character in text]).text == text


def test_prompt_of_a_megabyte_goes_through(client: Client) -> None:
    """A prompt of more than a mebibyte is sent and answered; gRPC's default limit of 4 MiB does not bind either."""
    text = "0123456789abcdef" * (1 << 16)
    generation = client.generate("chat", text)
    assert generation.text == text
    assert generation.num_input_tokens == len(text)
    big = text * 5
    assert client.generate("chat", big, max_tokens=3).num_input_tokens == len(big)


def test_one_client_serves_many_threads(client: Client) -> None:
    """Threads share a client, and each gets its own answers."""
    wrong: list[str] = []

    def work(name: int) -> None:
        for turn in range(10):
            text = f"thread {name} turn {turn}"
            if client.generate("chat", text).text != text:
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
