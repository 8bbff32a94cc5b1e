"""Tensors become typed calls; every refusal names the parameter and the remedy."""

import json
from pathlib import Path

import numpy as np
import pytest

from fathom_server.backends.fathom.generate_request import read_generate_request
from fathom_server.errors import InvalidRequestError
from fathom_server.text.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer.load(Path("examples/models/large").resolve())


def text(value: str | bytes) -> np.ndarray:
    return np.array([value.encode() if isinstance(value, str) else value], dtype=np.object_)


def read(**tensors: np.ndarray):
    return read_generate_request({"text_input": text("hi"), **tensors}, TOKENIZER)


def test_defaults_are_greedy_and_whole() -> None:
    """A bare prompt is answered greedily, whole, without its prompt, as text alone."""
    call = read()
    assert call.prompt_ids == TOKENIZER.encode("hi")
    assert call.sampling.is_plain_greedy
    assert not call.stream
    assert call.exclude_input_in_output
    assert call.outputs == {"text_output"}


def test_tensors_are_read() -> None:
    """Every tensor of the protocol reaches the sampling parameters."""
    call = read(
        max_tokens=np.array([7], np.int32),
        temperature=np.array([0.5], np.float32),
        top_k=np.array([3], np.int32),
        top_p=np.array([0.25], np.float32),
        seed=np.array([2**63], np.uint64),
        repetition_penalty=np.array([1.5], np.float32),
        stop_words=np.array([b"a", "ö".encode()], np.object_),
        stream=np.array([True]),
        exclude_input_in_output=np.array([False]),
        return_finish_reason=np.array([True]),
        return_output_ids=np.array([True]),
    )
    sampling = call.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_k, sampling.top_p) == (7, 0.5, 3, 0.25)
    assert (sampling.seed, sampling.repetition_penalty, sampling.stop) == (2**63, 1.5, ("a", "ö"))
    assert (call.stream, call.exclude_input_in_output) == (True, False)
    assert call.outputs == {"text_output", "finish_reason", "output_ids"}


def test_vllms_json_is_read() -> None:
    """The vLLM backend's sampling_parameters say the same in one JSON object."""
    parameters = {"max_tokens": 5, "temperature": 1, "top_k": -1, "stop": "x", "seed": None, "ignore_eos": True}
    sampling = read(sampling_parameters=text(json.dumps(parameters))).sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_k) == (5, 1.0, 0)
    assert (sampling.stop, sampling.seed, sampling.ignore_eos) == (("x",), None, True)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"text_input": text("")}, "text_input is empty"),
        ({"text_input": text(b"\xff\xfe")}, "text_input is not UTF-8 .* at byte 0"),
        ({"text_input": text("x"), "messages": text("[]")}, "this request has text_input and messages"),
        ({}, "this request has none of them"),
        ({"messages": text("{")}, "messages is not JSON"),
        ({"messages": text("[]")}, "messages must be a list of at least one"),
        ({"text_input": text("x"), "sampling_parameters": text("[1]")}, "must be a JSON object, not list"),
        ({"text_input": text("x"), "sampling_parameters": text('{"top_z": 1}')}, "'top_z', which is not supported"),
        ({"text_input": text("x"), "sampling_parameters": text('{"top_k": "5"}')}, "top_k is '5'; it must be an int"),
        ({"text_input": text("x"), "sampling_parameters": text('{"top_p": true}')}, "top_p is True; it must be a num"),
        ({"text_input": text("x"), "sampling_parameters": text('{"stop": [1]}')}, "must be a string or a list"),
        ({"text_input": text("x"), "sampling_parameters": text('{"ignore_eos": 1}')}, "must be true or false"),
        (
            {
                "text_input": text("x"),
                "top_k": np.array([1], np.int32),
                "sampling_parameters": text('{"top_k": 1}'),
            },
            "top_k is given twice",
        ),
        ({"text_input": text("x"), "max_tokens": np.array([0], np.int32)}, "max_tokens is 0; it must be at least 1"),
        ({"text_input": text("x"), "stop_words": text(b"\xff")}, "stop_words is not UTF-8"),
    ],
)
def test_bad_input_is_named(tensors: dict, told: str) -> None:
    """Each fault of the caller's is refused with the name, the value and what would do."""
    with pytest.raises(InvalidRequestError, match=told):
        read_generate_request(tensors, TOKENIZER)
