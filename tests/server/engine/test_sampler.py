"""Tokens are chosen as transformers' logits processors would have them."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fathom_server.engine.request import Piece, Request, SamplingParameters
from fathom_server.engine.sampler import kept_distribution, next_tokens, penalised
from fathom_server.errors import InvalidRequestError, RequestError
from fathom_server.text.detokenizer import ByteLevelDetokenizer

VOCABULARY = 300


class NoSink:
    """A sink for requests that are never answered."""

    def on_piece(self, piece: Piece) -> None:
        raise AssertionError(piece)

    def on_error(self, error: RequestError) -> None:
        raise AssertionError(error)


def make_request(sampling: SamplingParameters, prompt_ids: list[int]) -> Request:
    return Request("r", prompt_ids, sampling, 8, time.monotonic() + 60, NoSink(), ByteLevelDetokenizer([]))


def random_logits(seed: int, rows: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=3, size=(rows, VOCABULARY)).astype(np.float32)


@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.1, 3.0),
    top_k=st.sampled_from([0, 1, 2, 5, 50, VOCABULARY, VOCABULARY + 7]),
    top_p=st.sampled_from([0.01, 0.3, 0.9, 0.999, 1.0]),
)
def test_kept_tokens_and_probabilities_are_those_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    """Temperature, top-k and top-p leave the same distribution as transformers' warpers in the same order."""
    logits = random_logits(seed).astype(np.float64)
    scores = torch.from_numpy(logits)
    scores = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1.0:
        scores = TopPLogitsWarper(top_p)(None, scores)
    expected = torch.softmax(scores, dim=-1)[0].numpy()
    tokens, probabilities = kept_distribution(
        logits[0], SamplingParameters(temperature=temperature, top_k=top_k, top_p=top_p)
    )
    ours = np.zeros(VOCABULARY)
    ours[tokens] = probabilities
    np.testing.assert_allclose(ours, expected, atol=1e-9)


@given(st.integers(0, 1000), st.floats(0.5, 2.0), st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=30))
def test_repetition_penalty_is_that_of_transformers(seed: int, penalty: float, seen: list[int]) -> None:
    """Every token of prompt and answer is penalised once."""
    logits = random_logits(seed).astype(np.float64)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), torch.from_numpy(logits.copy()))
    np.testing.assert_allclose(penalised(logits[0].copy(), seen, penalty), expected[0].numpy())


def test_greedy_takes_the_largest() -> None:
    """Without sampling each row's largest logit is chosen."""
    logits = random_logits(1, rows=5)
    requests = [make_request(SamplingParameters(), [1]) for _ in range(5)]
    assert next_tokens(logits, requests) == logits.argmax(axis=1).tolist()


def test_a_seed_repeats_alone_and_in_company() -> None:
    """The same seed gives the same tokens whatever rows stand beside it."""
    sampling = SamplingParameters(temperature=1.0, seed=7)
    alone, crowd = make_request(sampling, [1]), make_request(sampling, [1])
    others = [make_request(SamplingParameters(temperature=2.0), [2]) for _ in range(3)]
    for step in range(20):
        logits = random_logits(step, rows=4)
        assert next_tokens(logits[2:3], [alone]) == [next_tokens(logits, [*others[:2], crowd, others[2]])[2]]


def test_draws_follow_the_distribution() -> None:
    """Over 20,000 draws the frequencies pass a chi-square test against the kept distribution (p > 1e-4)."""
    from scipy.stats import chisquare

    sampling = SamplingParameters(temperature=0.8, top_k=20, top_p=0.95, seed=3)
    logits = random_logits(11)
    request = make_request(sampling, [1])
    draws = np.bincount([next_tokens(logits, [request])[0] for _ in range(20_000)], minlength=VOCABULARY)
    tokens, probabilities = kept_distribution(logits[0].astype(np.float64), sampling)
    assert draws.sum() == draws[tokens].sum()
    assert chisquare(draws[tokens], probabilities * draws.sum()).pvalue > 1e-4


def test_broken_logits_give_no_token() -> None:
    """A row of NaN is told apart; the rows beside it are served."""
    logits = random_logits(5, rows=2)
    logits[0] = math.nan
    requests = [make_request(SamplingParameters(), [1]), make_request(SamplingParameters(), [1])]
    assert next_tokens(logits, requests) == [None, int(logits[1].argmax())]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"temperature": -0.5}, "temperature is -0.5; it must be between 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": math.nan}, "top_p is nan"),
        ({"top_k": -2}, "top_k is -2; it must be 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be above 0"),
        ({"seed": -1}, "seed is -1; it must be between 0 and"),
        ({"stop": ("",)}, "a stop string is empty"),
        ({"stop": tuple("abcdefghijklmnopq")}, "17 stop strings; at most 16"),
    ],
)
def test_values_out_of_range_are_named(values: dict, told: str) -> None:
    """Each parameter out of range is refused with its name, value and range."""
    with pytest.raises(InvalidRequestError, match=told):
        SamplingParameters(**values)
