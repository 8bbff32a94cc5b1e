"""Sampling parameters refuse what is out of range or contradictory, by name, value and remedy."""

import math

import pytest

from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.structured_output import StructuredOutput
from fathom_server.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"n": 0}, "n is 0; it must be between 1 and 128"),
        ({"n": 129}, "n is 129; it must be between 1 and 128"),
        ({"best_of": 0}, "best_of is 0; it must be between 1 and 128"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"min_tokens": -1}, "min_tokens is -1; it must be 0"),
        ({"temperature": -0.5}, r"temperature is -0.5; it must be between 0 \(greedy\) and 100"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": math.nan}, "top_p is nan"),
        ({"top_k": -2}, "top_k is -2; it must be 0"),
        ({"min_p": -0.1}, "min_p is -0.1; it must be between 0 and 1"),
        ({"min_p": 1.1}, "min_p is 1.1"),
        ({"typical_p": 0.0}, "typical_p is 0.0; it must be above 0 and at most 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be above 0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty is inf"),
        ({"presence_penalty": 2.5}, "presence_penalty is 2.5; it must be between -2 and 2"),
        ({"frequency_penalty": -3.0}, "frequency_penalty is -3.0; it must be between -2 and 2"),
        ({"seed": -1}, "seed is -1; it must be between 0 and"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"logprobs": 21}, "logprobs is 21; it must be between 0 and 20"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"prompt_logprobs": 21}, "prompt_logprobs is 21; it must be between 0 and 20"),
        ({"logit_bias": ((4, 101.0),)}, "logit_bias of token 4 is 101.0; it must be between -100 and 100"),
        ({"logit_bias": ((4, math.nan),)}, "logit_bias of token 4 is nan"),
        ({"logit_bias": ((4, 1.0), (4, 2.0))}, "logit_bias names the token id 4 twice"),
        ({"logit_bias": tuple((i, 1.0) for i in range(1025))}, "logit_bias has 1025 ids; at most 1024"),
        ({"stop": ("",)}, "a stop string is empty; leave it out of stop"),
        ({"stop": tuple("abcdefghijklmnopq")}, "17 stop strings; at most 16"),
        ({"bad_words": ("x", "")}, "a bad word is empty; leave it out of bad_words"),
        ({"bad_words": ("x",) * 257}, "257 bad words; at most 256"),
        ({"stop_token_ids": tuple(range(129))}, "stop_token_ids has 129 ids; at most 128"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens is 6 and max_tokens 5; lower the one or raise the other"),
        ({"n": 3, "best_of": 2, "temperature": 1.0}, "best_of is 2 and n 3; best_of must be at least n"),
        ({"n": 2}, "n is 2 and temperature 0, .* set temperature above 0, or n to 1"),
        ({"best_of": 2}, "best_of is 2 and temperature 0"),
        (
            {"ignore_eos": True, "structured_outputs": StructuredOutput("json_object")},
            "ignore_eos contradicts structured_outputs",
        ),
    ],
)
def test_values_out_of_range_and_contradictions_are_named(values: dict, told: str) -> None:
    """Each parameter that is out of range, alone or beside another, is refused with its name, value and range."""
    with pytest.raises(InvalidRequestError, match=told):
        SamplingParameters(**values)


@pytest.mark.parametrize("values", [{"logit_bias": ((300, 1.0),)}, {"stop_token_ids": (5, -1)}])
def test_token_ids_are_held_against_the_vocabulary(values: dict) -> None:
    """An id that the vocabulary does not have is named with the ids that it has."""
    sampling = SamplingParameters(**values)
    with pytest.raises(InvalidRequestError, match=r"holds the token id (300|-1); the vocabulary has the ids 0 to 299"):
        sampling.check_vocabulary(300)


def test_ids_within_the_vocabulary_pass() -> None:
    """The first and the last id of the vocabulary are taken."""
    SamplingParameters(logit_bias=((0, 1.0), (299, 1.0)), stop_token_ids=(0, 299)).check_vocabulary(300)


def test_the_limits_themselves_are_taken() -> None:
    """Every bound that an error names as inclusive is."""
    sampling = SamplingParameters(
        n=128,
        best_of=128,
        max_tokens=1,
        min_tokens=1,
        temperature=100.0,
        top_p=1.0,
        min_p=1.0,
        typical_p=1.0,
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        logit_bias=((3, -100.0), (4, 100.0)),
        seed=2**64 - 1,
        logprobs=20,
        prompt_logprobs=0,
    )
    assert (sampling.sequences, sampling.wants_logprobs) == (128, True)


def test_best_of_several_needs_logprobs() -> None:
    """Ranking sequences takes log-probabilities, giving all of them does not."""
    assert SamplingParameters(n=1, best_of=3, temperature=1.0).wants_logprobs
    assert not SamplingParameters(n=3, best_of=3, temperature=1.0).wants_logprobs
    assert not SamplingParameters(n=3, temperature=1.0).wants_logprobs


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("yaml", "x", "is of the kind 'yaml'; it must be one of json, json_object, regex, choice, grammar"),
        ("json", "{", "structured_outputs.json is not JSON"),
        ("json", "[1]", "must be a JSON schema: an object, true or false"),
        ("json", "[" * 100_000, "structured_outputs.json is not JSON"),
        ("regex", "", "structured_outputs.regex is empty"),
        ("json_object", "{}", "json_object takes no value"),
        ("choice", '"yes"', "it must be a list of strings"),
        ("choice", "[1]", "it must be a list of strings"),
        ("choice", "[]", "must hold at least one string"),
        ("choice", '["a", ""]', "no empty one"),
        ("grammar", "", "structured_outputs.grammar is empty"),
    ],
)
def test_structures_that_are_none_are_named(kind: str, value: str, told: str) -> None:
    """A structure of no known kind, or whose value is not of its kind, is refused."""
    with pytest.raises(InvalidRequestError, match=told):
        StructuredOutput(kind, value)  # type: ignore[arg-type]


def test_choices_are_read() -> None:
    """The strings of a choice come in their order."""
    assert StructuredOutput("choice", '["yes", "nö"]').choices == ("yes", "nö")
