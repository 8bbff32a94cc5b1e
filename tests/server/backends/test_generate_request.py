"""Tensors become typed calls; every refusal names the parameter and the remedy."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fathom_client import protocol
from fathom_server.backends.fathom.generate_request import read_generate_request, refuse_unknown_parameters
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.structured_output import StructuredOutput
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
        min_tokens=np.array([2], np.int32),
        temperature=np.array([0.5], np.float32),
        top_k=np.array([3], np.int32),
        top_p=np.array([0.25], np.float32),
        min_p=np.array([0.125], np.float32),
        seed=np.array([2**63], np.uint64),
        repetition_penalty=np.array([1.5], np.float32),
        presence_penalty=np.array([-0.5], np.float32),
        frequency_penalty=np.array([0.75], np.float32),
        stop_words=np.array([b"a", "ö".encode()], np.object_),
        bad_words=np.array([b"rude"], np.object_),
        end_id=np.array([9], np.int32),
        pad_id=np.array([0], np.int32),
        beam_width=np.array([1], np.int32),
        num_return_sequences=np.array([2], np.int32),
        priority=np.array([-3], np.int32),
        stream=np.array([True]),
        exclude_input_in_output=np.array([False]),
        return_finish_reason=np.array([True]),
        return_output_ids=np.array([True]),
        return_log_probs=np.array([True]),
        return_context_logits=np.array([False]),
    )
    assert call.sampling == SamplingParameters(
        n=2,
        max_tokens=7,
        min_tokens=2,
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        min_p=0.125,
        seed=2**63,
        repetition_penalty=1.5,
        presence_penalty=-0.5,
        frequency_penalty=0.75,
        stop=("a", "ö"),
        bad_words=("rude",),
        stop_token_ids=(9,),
        logprobs=0,
    )
    assert (call.stream, call.exclude_input_in_output, call.priority) == (True, False, -3)
    expected = {"text_output", "finish_reason", "output_ids", "sequence_index", "cum_log_probs", "output_log_probs"}
    assert call.outputs == expected


def test_vllms_json_is_read() -> None:
    """The vLLM backend's sampling_parameters say all of it in one JSON object; null says nothing."""
    parameters = {
        "n": 2,
        "best_of": 3,
        "max_tokens": 5,
        "min_tokens": 1,
        "temperature": 1,
        "top_k": -1,
        "top_p": 0.5,
        "min_p": 0.25,
        "typical_p": 0.75,
        "repetition_penalty": 1.25,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "logit_bias": {"5": -3, "7": 2.5},
        "bad_words": ["no"],
        "stop": "x",
        "stop_token_ids": [4, 5],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "seed": None,
        "logprobs": 4,
        "prompt_logprobs": 0,
        "priority": 6,
    }
    call = read(sampling_parameters=text(json.dumps(parameters)))
    assert call.sampling == SamplingParameters(
        n=2,
        best_of=3,
        max_tokens=5,
        min_tokens=1,
        temperature=1.0,
        top_p=0.5,
        min_p=0.25,
        typical_p=0.75,
        repetition_penalty=1.25,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        logit_bias=((5, -3.0), (7, 2.5)),
        bad_words=("no",),
        stop=("x",),
        stop_token_ids=(4, 5),
        include_stop_str_in_output=True,
        ignore_eos=True,
        skip_special_tokens=False,
        logprobs=4,
        prompt_logprobs=0,
    )
    assert call.priority == 6
    assert call.outputs == {"text_output", "sequence_index", "logprobs", "prompt_logprobs"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"structured_outputs": {"json": {"type": "object"}}}, ("json", '{"type": "object"}')),
        ({"structured_outputs": {"json": '{"type": "null"}'}}, ("json", '{"type": "null"}')),
        ({"structured_outputs": {"json_object": True}}, ("json_object", "")),
        ({"structured_outputs": {"json_object": False, "regex": "a+"}}, ("regex", "a+")),
        ({"structured_outputs": {"choice": ["yes", "nö"]}}, ("choice", '["yes", "nö"]')),
        ({"structured_outputs": {"grammar": "start: 'a'"}}, ("grammar", "start: 'a'")),
        ({"guided_json": {"type": "array"}}, ("json", '{"type": "array"}')),
        ({"guided_regex": "[0-9]"}, ("regex", "[0-9]")),
        ({"guided_choice": ["a"]}, ("choice", '["a"]')),
        ({"guided_grammar": "g"}, ("grammar", "g")),
        ({"structured_outputs": {"json": None}, "guided_json": None}, None),
    ],
)
def test_structures_are_read(parameters: dict, expected: tuple[str, str] | None) -> None:
    """Both of vLLM's forms name a structure: one object, and the older guided_... names."""
    structure = read(sampling_parameters=text(json.dumps(parameters))).sampling.structured_outputs
    assert structure == (None if expected is None else StructuredOutput(*expected))


@pytest.mark.parametrize(
    ("given", "outputs"),
    [
        ({"return_logprobs": True}, {"logprobs"}),
        ({"return_cumulative_logprob": True}, {"cumulative_logprob"}),
        ({"return_log_probs": True}, {"cum_log_probs", "output_log_probs"}),
        ({"return_logprobs": False}, set()),
    ],
)
def test_log_probabilities_are_computed_where_an_output_needs_them(given: dict, outputs: set[str]) -> None:
    """A flag that asks for log-probabilities has them computed; the JSON's logprobs lists them besides."""
    flags = {name: np.array([value]) for name, value in given.items()}
    call = read(**flags)
    assert call.outputs == {"text_output"} | outputs
    assert call.sampling.logprobs == (0 if outputs else None)
    listed = read(**flags, sampling_parameters=text('{"logprobs": 3}'))
    assert listed.outputs == {"text_output", "logprobs"} | outputs
    assert listed.sampling.logprobs == 3


def test_end_id_adds_an_end_or_takes_all_away() -> None:
    """TensorRT-LLM's end_id is one more end token beside the JSON's; -1 is its word for no end."""
    sampling = read(end_id=np.array([9], np.int32), sampling_parameters=text('{"stop_token_ids": [3]}')).sampling
    assert (sampling.stop_token_ids, sampling.ignore_eos) == ((3, 9), False)
    endless = read(end_id=np.array([-1], np.int32)).sampling
    assert (endless.stop_token_ids, endless.ignore_eos) == ((), True)


def test_bad_words_are_spelt_as_they_begin_and_within_a_text() -> None:
    """Each bad word is forbidden as the tokenizer spells it at the beginning and after a space."""
    ids = read(sampling_parameters=text('{"bad_words": ["number", " number", "12"]}')).bad_word_ids
    spelt = [TOKENIZER.tokenizer.encode(form, add_special_tokens=False).ids for form in ("number", " number", "12")]
    assert all(tuple(each) in ids for each in spelt)
    assert len(ids) == len(set(ids))
    assert all(ids)


def test_misspelt_parameters_are_refused() -> None:
    """What Triton hands on beside the tensors is named, unless somebody reads it."""
    refuse_unknown_parameters([])
    refuse_unknown_parameters(["client"], known=("client",))
    with pytest.raises(InvalidRequestError, match=r"'temprature' is no input or parameter .*: text_input, messages"):
        refuse_unknown_parameters(["client", "temprature"], known=("client",))


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
        ({"text_input": text("x"), "top_p": np.array([np.nan], np.float32)}, "top_p is nan; it must be above 0"),
        ({"text_input": text("x"), "beam_width": np.array([4], np.int32)}, "beam_width is 4; .* num_return_sequences"),
        ({"text_input": text("x"), "pad_id": np.array([1, 2], np.int32)}, "pad_id has 2 elements; it must have one"),
        ({"text_input": text("x"), "return_context_logits": np.array([True])}, "return_context_logits is true; logits"),
        ({"text_input": text("x"), "return_generation_logits": np.array([True])}, "return_generation_logits is true"),
        (
            {
                "text_input": text("x"),
                "num_return_sequences": np.array([2], np.int32),
                "sampling_parameters": text('{"n": 2, "temperature": 1}'),
            },
            "n is given twice",
        ),
        (
            {
                "text_input": text("x"),
                "end_id": np.array([-1], np.int32),
                "sampling_parameters": text('{"ignore_eos": false}'),
            },
            "end_id is -1, .* ignore_eos is false",
        ),
        (
            {
                "text_input": text("x"),
                "stream": np.array([True]),
                "sampling_parameters": text('{"best_of": 3, "temperature": 1}'),
            },
            "best_of is 3 and n 1 in a streamed answer.* set stream to false",
        ),
        ({"text_input": text("x"), "stop_words": text(b"\xff")}, "stop_words is not UTF-8"),
    ],
)
def test_bad_input_is_named(tensors: dict, told: str) -> None:
    """Each fault of the caller's is refused with the name, the value and what would do."""
    with pytest.raises(InvalidRequestError, match=told):
        read_generate_request(tensors, TOKENIZER)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ('{"logit_bias": {"x": 1}}', "logit_bias is {'x': 1}; it must be an object whose names are token ids"),
        ('{"logit_bias": [1]}', "logit_bias is .*; it must be an object"),
        ('{"logit_bias": {"5": "1"}}', "logit_bias is .* whose values are numbers"),
        ('{"logit_bias": {"5": 500}}', "logit_bias of token 5 is 500.0; it must be between -100 and 100"),
        ('{"stop_token_ids": [1.5]}', "stop_token_ids is .*; it must be a list of integers"),
        ('{"stop_token_ids": [true]}', "stop_token_ids is .*; it must be a list of integers"),
        ('{"temperature": NaN}', "temperature is nan; it must be between 0"),
        ('{"temperature": 1' + "0" * 400 + "}", "temperature is 1000.* it must be a number of at most 308 digits"),
        ('{"logprobs": 21}', "logprobs is 21; it must be between 0 and 20"),
        ('{"n": 2}', "n is 2 and temperature 0"),
        ('{"priority": 3000000000}', "priority is 3000000000; it must be between -2147483648 and 2147483647"),
        ('{"skip_special_tokens": 0}', "skip_special_tokens is 0; it must be true or false"),
        ('{"structured_outputs": "json"}', "structured_outputs is 'json'; it must be an object with one of json"),
        ('{"structured_outputs": {"yaml": 1}}', "structured_outputs has 'yaml', which is not supported; supported: js"),
        ('{"structured_outputs": {"regex": 5}}', "structured_outputs.regex is 5; it must be a string"),
        ('{"structured_outputs": {"json_object": 1}}', "json_object is 1; it must be true or false"),
        ('{"structured_outputs": {"choice": "a"}}', "structured_outputs.choice is .*; it must be a list of strings"),
        (
            '{"structured_outputs": {"json": {}, "regex": "a"}}',
            "one structure; this request has structured_outputs.json and structured_outputs.regex",
        ),
        (
            '{"structured_outputs": {"regex": "a"}, "guided_choice": ["a"]}',
            "this request has structured_outputs.regex and guided_choice",
        ),
        ('{"guided_regex": 5}', "guided_regex is 5; it must be a string"),
    ],
)
def test_bad_sampling_parameters_are_named(parameters: str, told: str) -> None:
    """Each fault in vLLM's JSON is refused with the parameter's name, its value and what it must be."""
    with pytest.raises(InvalidRequestError, match=told):
        read(sampling_parameters=text(parameters))


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault of the strategy's
@given(
    st.dictionaries(
        st.sampled_from(["n", "best_of", "logit_bias", "stop", "seed", "logprobs", "structured_outputs", "top_p", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=5,
        ),
    )
)
def test_any_json_is_read_or_refused(parameters: dict) -> None:
    """Whatever JSON comes as sampling_parameters is read or refused as the caller's fault, nothing else."""
    with contextlib.suppress(InvalidRequestError):
        read(sampling_parameters=text(json.dumps(parameters)))


def test_the_docs_name_every_tensor_and_parameter() -> None:
    """docs/sampling.md names each input and output of an LLM, and each name that the JSON takes."""
    named = set(re.findall(r"`([a-z_]+)`", Path("docs/sampling.md").read_text(encoding="utf-8")))
    prompts = {"text_input", "messages", "input_ids", "sampling_parameters"}
    wire = {tensor.name for tensor in (*protocol.GENERATE_INPUTS, *protocol.GENERATE_OUTPUTS)}
    with pytest.raises(InvalidRequestError, match="supported: ") as refusal:
        read(sampling_parameters=text('{"x": 1}'))
    parameters = set(str(refusal.value).partition("supported: ")[2].split(", "))
    assert wire | prompts | parameters <= named
