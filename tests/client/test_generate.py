"""Whole answers: what goes over the wire, and what comes back."""

import json
import threading
from collections.abc import Callable

import pytest

from fathom_client import AsyncClient, Client, Generation, GenerationChoice, Message, TokenLogprob, protocol

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
    "min_tokens": 2,
    "min_p": 0.125,
    "typical_p": 0.75,
    "presence_penalty": -0.5,
    "frequency_penalty": 1.5,
    "logit_bias": {5: -3, 7: 2.5},
    "bad_words": ["schlecht"],
    "stop_token_ids": [4, 9],
    "include_stop_str_in_output": True,
    "json_schema": {"type": "object"},
    "n": 1,
    "best_of": 2,
    "logprobs": 0,
    "prompt_logprobs": 3,
    "echo": True,
    "priority": -4,
    "client": "tenant ä",
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
        choices=(GenerationChoice(0, "hello big", tuple(map(ord, "hello big")), "length"),),
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
        protocol.MIN_TOKENS: [2],
        protocol.MIN_P: [0.125],
        protocol.PRESENCE_PENALTY: [-0.5],
        protocol.FREQUENCY_PENALTY: [1.5],
        protocol.BAD_WORDS: ["schlecht"],
        protocol.PRIORITY: [-4],
        protocol.STREAM: [False],
        protocol.EXCLUDE_INPUT_IN_OUTPUT: [False],
        protocol.RETURN_FINISH_REASON: [True],
        protocol.RETURN_NUM_INPUT_TOKENS: [True],
        protocol.RETURN_NUM_OUTPUT_TOKENS: [True],
        protocol.RETURN_OUTPUT_IDS: [True],
    }
    parameters = json.loads(arrived["inputs"].pop(protocol.SAMPLING_PARAMETERS)["values"][0])
    assert parameters == {
        "n": 1,
        "best_of": 2,
        "logprobs": 0,
        "prompt_logprobs": 3,
        "typical_p": 0.75,
        "logit_bias": {"5": -3.0, "7": 2.5},
        "stop_token_ids": [4, 9],
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "structured_outputs": {"json": {"type": "object"}},
    }
    assert arrived["parameters"] == {protocol.CLIENT_PARAMETER: "tenant ä"}
    assert {name: tensor["values"] for name, tensor in arrived["inputs"].items()} == expected
    for name, tensor in arrived["inputs"].items():
        assert tensor["dtype"] == dtypes[specs[name].datatype]
        assert tensor["shape"] == [len(expected[name])]
    assert arrived["id"] == "request-7"


@pytest.mark.parametrize(
    ("option", "value", "sent"),
    [
        ("json_schema", '{"type": "null"}', {"json": '{"type": "null"}'}),
        ("json_object", True, {"json_object": True}),
        ("regex", "[ä-ü]+", {"regex": "[ä-ü]+"}),
        ("choice", ("yes", "no"), {"choice": ["yes", "no"]}),
        ("grammar", 'start: "a"', {"grammar": 'start: "a"'}),
    ],
)
def test_structures_are_sent_under_vllms_names(
    client: Client, ordered: Callable[..., str], option: str, value: object, sent: dict
) -> None:
    """Each kind of structure arrives in sampling_parameters.structured_outputs."""
    arrived = json.loads(client.generate("chat", ordered("", echo=True), **{option: value}).text)
    parameters = json.loads(arrived["inputs"][protocol.SAMPLING_PARAMETERS]["values"][0])
    assert parameters == {"structured_outputs": sent}


def test_several_answers_are_choices(client: Client) -> None:
    """Each answer has its own text, tokens and reason; the first stands for the whole, and tokens count together."""
    generation = client.generate("chat", "hello", n=3, max_tokens=6, temperature=1.0)
    assert [choice.text for choice in generation.choices] == ["hello", "1:hell", "2:hell"]
    assert [choice.finish_reason for choice in generation.choices] == ["stop", "length", "length"]
    assert [choice.index for choice in generation.choices] == [0, 1, 2]
    assert all(choice.token_ids == tuple(map(ord, choice.text)) for choice in generation.choices)
    assert (generation.text, generation.finish_reason, generation.num_output_tokens) == ("hello", "stop", 17)


async def test_logprobs_come_with_answers(client: Client, async_client: AsyncClient) -> None:
    """Tokens of answers and of the prompt carry their log-probabilities and the likeliest tokens, in both clients."""
    options = {"n": 2, "logprobs": 2, "prompt_logprobs": 1, "temperature": 1.0, "request_id": "same"}
    generation = client.generate("chat", "hi", **options)
    first, second = generation.choices
    assert first.logprobs == tuple(
        TokenLogprob(
            token, -token / 1000, (TokenLogprob(token, -token / 1000), TokenLogprob(token - 1, -(token + 1) / 1000))
        )
        for token in map(ord, "hi")
    )
    assert [each.token_id for each in second.logprobs] == list(map(ord, "1:hi"))
    assert first.cumulative_logprob == pytest.approx(-(ord("h") + ord("i")) / 1000)
    assert generation.logprobs == first.logprobs
    assert generation.prompt_logprobs == (
        TokenLogprob(ord("h"), None),
        TokenLogprob(ord("i"), -0.105, (TokenLogprob(ord("i"), -0.105),)),
    )
    assert await async_client.generate("chat", "hi", **options) == generation
    plain = client.generate("chat", "hi")
    assert (plain.logprobs, plain.prompt_logprobs, plain.choices[0].cumulative_logprob) == (None, None, None)


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
