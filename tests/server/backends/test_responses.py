"""Pieces of answers become output tensors: of one sequence each while they stream, of all at the end otherwise."""

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from fathom_client import protocol
from fathom_server.backends.fathom.generate_request import GenerateRequest, read_generate_request
from fathom_server.backends.fathom.responses import ResponseWriter
from fathom_server.engine.request import Piece
from fathom_server.engine.sampler import Choice, TokenLogprob
from fathom_server.text.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer.load(Path("examples/models/large").resolve())
NAMES = [tensor.name for tensor in protocol.GENERATE_OUTPUTS]
TEXTS: defaultdict[int, bytes] = defaultdict(bytes)
FLAGS = [
    protocol.RETURN_FINISH_REASON,
    protocol.RETURN_NUM_INPUT_TOKENS,
    protocol.RETURN_NUM_OUTPUT_TOKENS,
    protocol.RETURN_OUTPUT_IDS,
    protocol.RETURN_CUMULATIVE_LOGPROB,
    protocol.RETURN_LOG_PROBS,
]


def make_call(*flags: str, **parameters: object) -> GenerateRequest:
    tensors = {
        protocol.INPUT_IDS: np.array([11, 12, 13], np.int32),
        protocol.SAMPLING_PARAMETERS: np.array([json.dumps({"temperature": 1, **parameters}).encode()], np.object_),
        **{flag: np.array([True]) for flag in flags},
    }
    return read_generate_request(tensors, TOKENIZER)


def plain(tensors: dict) -> dict:
    return {
        name: [each.decode() if isinstance(each, bytes) else each for each in value.tolist()]
        for name, value in tensors.items()
    }


def choice(token: int, logprob: float) -> Choice:
    return Choice(token, logprob, (TokenLogprob(token, logprob),))


def test_a_whole_answer_has_an_element_a_sequence() -> None:
    """Pieces of three sequences, in any order, become one response whose elements stand in the sequences' order."""
    writer = ResponseWriter(make_call(*FLAGS, n=3), NAMES, TEXTS)
    tensors = writer.whole(
        [
            Piece(2, "c", (5,), None, (Choice(5, -1.0),)),
            Piece(0, "a", (1,), None, (Choice(1, -0.5),)),
            Piece(2, "d", (6, 7), "length", (Choice(6, -2.0), Choice(7, -3.0))),
            Piece(0, "b", (2,), "stop", (Choice(2, -0.25),)),
            Piece(1, "", (3,), "stop", (Choice(3, -4.0),), is_last=True),
        ]
    )
    assert plain(tensors) == {
        "text_output": ["ab", "", "cd"],
        "finish_reason": ["stop", "stop", "length"],
        "num_input_tokens": [3],
        "num_output_tokens": [2, 1, 3],
        "output_ids": [1, 2, 3, 5, 6, 7],
        "sequence_index": [0, 1, 2],
        "cumulative_logprob": [-0.75, -4.0, -6.0],
        "cum_log_probs": [-0.75, -4.0, -6.0],
        "output_log_probs": [-0.5, -0.25, -4.0, -1.0, -2.0, -3.0],
    }


def test_streamed_responses_belong_to_one_sequence_each() -> None:
    """Pieces that travel together are told apart by sequence; cumulative values go on from response to response."""
    writer = ResponseWriter(make_call(*FLAGS, n=2), NAMES, TEXTS)
    first = writer.streamed(
        [Piece(1, "x", (4,), None, (Choice(4, -1.0),)), Piece(0, "a", (1,), None, (Choice(1, -2.0),))]
    )
    second = writer.streamed(
        [
            Piece(1, "y", (5,), None, (Choice(5, -0.5),)),
            Piece(1, "z", (6,), "stop", (Choice(6, -0.25),)),
        ]
    )
    assert [plain(each)["sequence_index"] for each in first] == [[1], [0]]
    assert [plain(each)["finish_reason"] for each in first] == [[""], [""]]
    assert [plain(each) for each in second] == [
        {
            "text_output": ["yz"],
            "finish_reason": ["stop"],
            "num_input_tokens": [3],
            "num_output_tokens": [2],
            "output_ids": [5, 6],
            "sequence_index": [1],
            "cumulative_logprob": [-1.75],
            "cum_log_probs": [-1.75],
            "output_log_probs": [-0.5, -0.25],
        }
    ]


def test_log_probabilities_are_listed_as_json() -> None:
    """Each token of a response has its log-probability and the likeliest ones; the prompt's come once, at first."""
    writer = ResponseWriter(make_call(logprobs=1, prompt_logprobs=1), NAMES, TEXTS)
    prompt = (choice(12, -1.5), choice(13, -math.inf))
    first, *none = writer.streamed([Piece(0, "a", (1,), None, (choice(1, -0.5),), prompt_choices=prompt)])
    assert none == []
    top = {"token_id": 1, "logprob": -0.5}
    assert json.loads(plain(first)["logprobs"][0]) == [{"token_id": 1, "logprob": -0.5, "top": [top]}]
    assert json.loads(plain(first)["prompt_logprobs"][0]) == [
        {"token_id": 11, "logprob": None, "top": []},
        {"token_id": 12, "logprob": -1.5, "top": [{"token_id": 12, "logprob": -1.5}]},
        {"token_id": 13, "logprob": -9999.0, "top": [{"token_id": 13, "logprob": -9999.0}]},
    ]
    [second] = writer.streamed([Piece(0, "b", (2, 3), "stop", (choice(2, -1.0), choice(3, -2.0)))])
    assert second.keys() == {"text_output", "logprobs"}
    assert [each["token_id"] for each in json.loads(plain(second)["logprobs"][0])] == [2, 3]


def test_listed_tokens_have_their_text() -> None:
    """Beside a log-probability stands the token's text, and its bytes where they are a part of a character."""
    table = TEXTS | {2: " \u00e9".encode(), 3: b"\xe6\x9d"}
    writer = ResponseWriter(make_call(logprobs=1), NAMES, table)
    [tensors] = writer.streamed([Piece(0, "a", (2, 3, 9), None, (choice(2, -0.5), choice(3, -1.0), choice(9, -2.0)))])
    listed = json.loads(plain(tensors)["logprobs"][0])
    assert [(each.get("token"), each.get("bytes")) for each in listed] == [
        (" \u00e9", None),
        ("\ufffd", "e69d"),
        (None, None),
    ]
    assert [each["top"][0].get("token") for each in listed] == [" \u00e9", "\ufffd", None]


def test_whole_answers_list_each_sequences_log_probabilities() -> None:
    """Not streamed, the JSON of log-probabilities is one list a sequence."""
    writer = ResponseWriter(make_call(n=2, logprobs=0, prompt_logprobs=0), NAMES, TEXTS)
    pieces = [
        Piece(0, "a", (1,), "stop", (Choice(1, -0.5),), prompt_choices=(Choice(12, -1.0), Choice(13, -2.0))),
        Piece(1, "b", (2,), "stop", (Choice(2, -1.5),)),
    ]
    tensors = plain(writer.whole(pieces))
    assert [json.loads(each)[0]["token_id"] for each in tensors["logprobs"]] == [1, 2]
    assert len(json.loads(tensors["prompt_logprobs"][0])) == 3


@pytest.mark.parametrize("streamed", [True, False])
def test_the_echo_stands_once_before_each_answer(streamed: bool) -> None:
    """The prompt's text comes before each sequence's first text and nowhere else."""
    writer = ResponseWriter(make_call(n=2), NAMES, TEXTS, echo="P:")
    steps = [[Piece(0, "a", (1,)), Piece(1, "x", (2,))], [Piece(0, "b", (3,), "stop"), Piece(1, "y", (4,), "stop")]]
    if streamed:
        texts = [plain(each)["text_output"][0] for pieces in steps for each in writer.streamed(pieces)]
        assert texts == ["P:a", "P:x", "b", "y"]
    else:
        assert plain(writer.whole([*steps[0], *steps[1]]))["text_output"] == ["P:ab", "P:xy"]


def test_only_what_was_asked_for_is_given() -> None:
    """Outputs need both their flag and their place in the caller's list; data types are the protocol's."""
    datatypes = {"BYTES": np.object_, "INT32": np.int32, "UINT32": np.uint32, "FP32": np.float32}
    expected = {tensor.name: datatypes[tensor.datatype] for tensor in protocol.GENERATE_OUTPUTS}
    everything = ResponseWriter(make_call(*FLAGS, n=2, logprobs=2, prompt_logprobs=2), NAMES, TEXTS)
    tensors = everything.whole([Piece(0, "a", (1,), "stop"), Piece(1, "b", (2,), "stop")])
    assert {name: value.dtype for name, value in tensors.items()} == expected
    few = ResponseWriter(make_call(*FLAGS, n=2), [protocol.TEXT_OUTPUT, protocol.OUTPUT_IDS], TEXTS)
    assert few.whole([Piece(0, "a", (1,), "stop"), Piece(1, "b", (2,), "stop")]).keys() == {"text_output", "output_ids"}
    bare = ResponseWriter(make_call(), NAMES, TEXTS)
    assert bare.whole([Piece(0, "a", (1,), "stop")]).keys() == {"text_output"}
