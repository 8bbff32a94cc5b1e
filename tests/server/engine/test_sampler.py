"""Tokens are chosen as transformers' logits processors would have them, and draws repeat whatever runs beside them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from fathom_server.engine.distribution import draw, kept_distribution, largest
from fathom_server.engine.sampler import Choice, SequenceSampler, TokenCounts, prompt_logprobs, sample
from fathom_server.engine.sampling_parameters import SamplingParameters

VOCABULARY = 300
EOS = 2
SETTINGS = {
    "temperature": {"temperature": 0.8},
    "top_k": {"temperature": 0.8, "top_k": 20},
    "top_p": {"temperature": 1.2, "top_p": 0.9},
    "min_p": {"temperature": 1.5, "min_p": 0.05},
    "typical_p": {"temperature": 1.0, "typical_p": 0.8},
    "all warpers": {"temperature": 1.1, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.95},
    "penalties": {
        "temperature": 1.0,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.7,
        "logit_bias": ((5, 3.0), (9, -100.0)),
    },
}


def random_logits(seed: int, rows: int = 1, vocabulary: int = VOCABULARY) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=3, size=(rows, vocabulary)).astype(np.float32)


def make_sampler(
    prompt: tuple[int, ...] = (1,), answer: tuple[int, ...] = (), *, index: int = 0, bad=(), eos=(EOS,), **values
) -> SequenceSampler:
    sampler = SequenceSampler(SamplingParameters(**values), prompt, VOCABULARY, eos, index, bad)
    for token in answer:
        sampler.append(token)
    return sampler


def mask_of(*tokens: int, vocabulary: int = VOCABULARY) -> np.ndarray:
    bits = np.zeros(-(-vocabulary // 32) * 32, dtype=np.uint8)
    bits[list(tokens)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def reference_distribution(scores: np.ndarray, sampling: SamplingParameters) -> np.ndarray:
    """The probabilities that transformers' warpers leave, float64 [vocabulary]."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0.0:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    if sampling.typical_p < 1.0:
        warpers.append(TypicalLogitsWarper(sampling.typical_p))
    warped = warpers(None, torch.from_numpy(scores.astype(np.float64))[None])
    return torch.softmax(warped, dim=-1)[0].numpy()


def assert_kept_as_by_transformers(logits: np.ndarray, sampling: SamplingParameters) -> None:
    tokens, probabilities = kept_distribution(logits, sampling)
    ours = np.zeros(logits.size)
    ours[tokens] = probabilities
    np.testing.assert_allclose(ours, reference_distribution(logits, sampling), atol=1e-7)


@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.1, 3.0),
    top_k=st.sampled_from([0, 1, 2, 5, 50, VOCABULARY, VOCABULARY + 7]),
    top_p=st.sampled_from([0.01, 0.3, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.001, 0.1, 1.0]),
    typical_p=st.sampled_from([0.05, 0.5, 0.95, 1.0]),
)
def test_kept_tokens_and_probabilities_are_those_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, typical_p: float
) -> None:
    """Temperature, top-k, top-p, min-p and typical-p leave transformers' distribution, alone and one after another."""
    sampling = SamplingParameters(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p)
    assert_kept_as_by_transformers(random_logits(seed)[0], sampling)


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0, 12.0])
@pytest.mark.parametrize(
    "values",
    [
        {"top_k": 50},
        {"top_k": 1000},
        {"top_k": 20_000},
        {"top_p": 0.2},
        {"top_p": 0.95},
        {"min_p": 0.05},
        {"typical_p": 0.3},
        {"typical_p": 0.9},
        {"top_k": 3000, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9},
    ],
)
def test_partial_selection_of_a_whole_vocabulary_is_that_of_transformers(scale: float, values: dict) -> None:
    """From flat to peaked, selecting from 49,152 tokens without sorting them leaves what sorting leaves."""
    logits = (np.random.default_rng(4).normal(size=49_152) * scale).astype(np.float32)
    tokens, probabilities = kept_distribution(logits, SamplingParameters(temperature=0.9, **values))
    expected = reference_distribution(logits, SamplingParameters(temperature=0.9, **values))
    ours = np.zeros(logits.size)
    ours[tokens] = probabilities
    # on the edge, where one token more or less stands within rounding, a single token's probability may differ
    assert np.count_nonzero(np.abs(ours - expected) > 1e-7) <= 1
    assert np.abs(ours - expected).sum() < 1e-3


@given(
    seed=st.integers(0, 1000),
    bias=st.dictionaries(st.integers(0, VOCABULARY - 1), st.floats(-100, 100, width=32), max_size=8),
    penalty=st.floats(0.5, 2.0),
    words=st.lists(st.lists(st.integers(3, 12), min_size=1, max_size=3), max_size=5),
    prompt=st.lists(st.integers(0, 12), min_size=3, max_size=20),
    answer=st.lists(st.integers(3, 12), max_size=10),
    min_tokens=st.integers(0, 6),
)
def test_processed_logits_are_those_of_transformers(
    seed: int,
    bias: dict[int, float],
    penalty: float,
    words: list[list[int]],
    prompt: list[int],
    answer: list[int],
    min_tokens: int,
) -> None:
    """Bias, repetition penalty, bad words and least length, in this order, change logits as transformers' do."""
    logits = random_logits(seed)
    processors = LogitsProcessorList()
    if bias:
        processors.append(SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()]))
    processors.append(RepetitionPenaltyLogitsProcessor(penalty))
    if words:
        processors.append(NoBadWordsLogitsProcessor(words, eos_token_id=EOS))
    processors.append(MinNewTokensLengthLogitsProcessor(len(prompt), min_tokens, EOS, device="cpu"))
    expected = processors(torch.tensor([[*prompt, *answer]]), torch.from_numpy(logits.copy()))
    sampler = make_sampler(
        tuple(prompt),
        tuple(answer),
        bad=words,
        logit_bias=tuple(bias.items()),
        repetition_penalty=penalty,
        min_tokens=min_tokens,
    )
    np.testing.assert_allclose(sampler.process(logits[0], None), expected[0].numpy(), rtol=1e-6, atol=1e-6)


@given(st.integers(0, 1000), st.floats(-2, 2), st.floats(-2, 2), st.lists(st.integers(0, 9), max_size=40))
def test_presence_and_frequency_penalties_follow_the_formula(
    seed: int, presence: float, frequency: float, answer: list[int]
) -> None:
    """A token that came c times in the answer loses presence + c * frequency; the prompt does not count."""
    logits = random_logits(seed)[0]
    expected = logits.astype(np.float64)
    for token in set(answer):
        expected[token] -= presence + answer.count(token) * frequency
    sampler = make_sampler((1, 1, 2), tuple(answer), presence_penalty=presence, frequency_penalty=frequency)
    np.testing.assert_allclose(sampler.process(logits, None), expected, rtol=1e-5, atol=1e-5)


@given(st.lists(st.integers(0, 5), max_size=20), st.lists(st.integers(0, 60), max_size=80))
def test_tokens_are_counted(first: list[int], later: list[int]) -> None:
    """Counts are right however many distinct tokens come, and in whatever order."""
    counts = TokenCounts(first)
    for token in later:
        counts.add(token)
    everything = [*first, *later]
    assert dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True)) == {
        token: everything.count(token) for token in set(everything)
    }


def test_stop_token_ids_wait_for_the_least_length_too() -> None:
    """Before min_tokens neither the model's end tokens nor the request's own can be chosen; afterwards both can."""
    logits = np.zeros((1, VOCABULARY), dtype=np.float32)
    logits[0, [EOS, 7, 11]] = 9.0, 8.0, 7.0
    sampler = make_sampler(min_tokens=1, stop_token_ids=(7,))
    assert sample(logits, [sampler], [None]) == [Choice(11)]
    sampler.append(11)
    assert sample(logits, [sampler], [None]) == [Choice(EOS)]


def test_greedy_takes_the_largest() -> None:
    """Without sampling each row's largest logit is chosen."""
    logits = random_logits(1, rows=5)
    samplers = [make_sampler() for _ in range(5)]
    assert [choice.token for choice in sample(logits, samplers, [None] * 5)] == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-9, 1e-6])
@pytest.mark.parametrize("values", [{}, {"top_k": 5}, {"top_p": 0.9}, {"typical_p": 0.9}])
def test_a_temperature_next_to_zero_takes_the_largest(temperature: float, values: dict) -> None:
    """Temperatures that overflow float32 when divided by are as good as greedy."""
    logits = random_logits(2)
    choice = sample(logits, [make_sampler(temperature=temperature, **values)], [None])[0]
    assert choice.token == logits[0].argmax()


@pytest.mark.parametrize("values", SETTINGS.values(), ids=SETTINGS)
def test_a_seed_repeats_alone_and_in_company(values: dict) -> None:
    """The same seed gives the same tokens and log-probabilities, bit for bit, whatever rows stand beside it."""
    alone, crowd = (make_sampler(seed=7, logprobs=3, **values) for _ in range(2))
    others = [
        make_sampler(temperature=2.0),
        make_sampler(logprobs=2),
        make_sampler(temperature=1.0, top_p=0.5, repetition_penalty=1.2),
    ]
    for step in range(30):
        logits = random_logits(step, rows=4)
        company = [*others[:2], crowd, others[2]]
        choices = sample(logits, company, [None, mask_of(4, 5), None, None])
        assert sample(logits[2:3].copy(), [alone], [None]) == [choices[2]]
        for sampler, choice in zip([alone, *company], [choices[2], *choices], strict=True):
            sampler.append(choice.token)


def test_draws_depend_on_seed_sequence_and_position_alone() -> None:
    """A sampler that comes late to a position draws as one that was there all along; sequences differ."""
    logits = random_logits(3)
    values = {"temperature": 3.0, "seed": 11}
    steady = make_sampler(**values)
    tokens = []
    for _ in range(20):
        tokens.append(sample(logits, [steady], [None])[0].token)
        sample(logits, [steady], [None])  # a draw that is thrown away changes nothing
        steady.append(tokens[-1])
    for position in range(20):
        late = make_sampler(answer=tuple(tokens[:position]), **values)
        assert sample(logits, [late], [None])[0].token == tokens[position]
    sibling = make_sampler(index=1, **values)
    assert [sibling.uniform(i) for i in range(8)] != [steady.uniform(i) for i in range(8)]


def test_requests_without_a_seed_differ() -> None:
    """Where no seed is given, two samplers draw different numbers."""
    assert make_sampler(temperature=1.0).uniform(0) != make_sampler(temperature=1.0).uniform(0)


def test_random_numbers_are_uniform() -> None:
    """Over positions, sequences and seeds the numbers pass a Kolmogorov-Smirnov test, and hardly correlate."""
    along = np.array([make_sampler(seed=2**64 - 1).uniform(position) for position in range(4000)])
    across = np.array([make_sampler(seed=5, index=index).uniform(0) for index in range(4000)])
    seeds = np.array([make_sampler(seed=seed).uniform(0) for seed in range(4000)])
    for numbers in (along, across, seeds):
        assert kstest(numbers, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 4 / math.sqrt(len(numbers))


@pytest.mark.parametrize("values", SETTINGS.values(), ids=SETTINGS)
def test_draws_follow_the_distribution(values: dict) -> None:
    """Over 100,000 draws the frequencies pass a chi-square test against transformers' probabilities (p > 1e-4)."""
    logits = random_logits(11)
    answer = (5, 5, 8, 40)
    rows, draws = 100, np.zeros(VOCABULARY, dtype=np.int64)
    many = np.repeat(logits, rows, axis=0)
    samplers = [make_sampler((1, 8), answer, index=index, seed=3, **values) for index in range(rows)]
    for step in range(1000):
        for sampler in samplers:
            sampler.position = step  # the past stays, so that every draw is from one distribution
        for choice in sample(many, samplers, [None] * rows):
            draws[choice.token] += 1
    scores = samplers[0].process(logits[0], None)
    expected = reference_distribution(scores, SamplingParameters(**values)) * draws.sum()
    assert draws[expected == 0].sum() == 0
    common = expected >= 5  # the test's own condition; what is rarer counts as one kind
    observed = np.append(draws[common], draws[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    if wanted[-1] < 5:
        observed, wanted = observed[:-1], wanted[:-1] * observed[:-1].sum() / wanted[:-1].sum()
    assert chisquare(observed, wanted).pvalue > 1e-4


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.05])
def test_every_token_has_its_share_of_the_unit_interval(top_p: float) -> None:
    """Over 20,000 evenly spaced numbers each token of a large flat vocabulary comes as often as it is probable."""
    vocabulary, numbers = 5003, 20_000
    logits = (np.random.default_rng(2).normal(size=vocabulary) * 0.5).astype(np.float32)
    sampling = SamplingParameters(temperature=0.9, top_p=top_p)
    expected = reference_distribution(logits, sampling) * numbers
    tokens = [draw(logits, sampling, (number + 0.5) / numbers) for number in range(numbers)]
    counts = np.bincount(tokens, minlength=vocabulary)
    assert np.abs(counts - expected).max() < 1.01
    assert counts[expected == 0].sum() == 0
    assert draw(logits, sampling, 0.0) in np.flatnonzero(expected)
    assert draw(logits, sampling, 1.0 - 2.0**-53) in np.flatnonzero(expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_masked_tokens_are_never_chosen(temperature: float) -> None:
    """A structure's mask leaves its tokens and no other, greedy and drawn, in words beyond the first."""
    logits = random_logits(6)
    allowed = (0, 31, 32, 64, 299)
    sampler = make_sampler(temperature=temperature, seed=1)
    chosen = set()
    for _ in range(200):
        choice = sample(logits, [sampler], [mask_of(*allowed)])[0]
        sampler.append(choice.token)
        chosen.add(choice.token)
    best = max(allowed, key=lambda token: logits[0, token])
    assert chosen == {best} if temperature == 0.0 else chosen <= set(allowed) and len(chosen) > 2


def test_a_structure_wins_over_bad_words_and_least_length() -> None:
    """Where a mask leaves only what is forbidden, the forbidden token is chosen; elsewhere it is not."""
    logits = random_logits(8)
    sampler = make_sampler(bad=[[40]], min_tokens=5, temperature=1.0, seed=1)
    assert sample(logits, [sampler], [mask_of(EOS)])[0].token == EOS
    assert sample(logits, [sampler], [mask_of(40)])[0].token == 40
    assert sample(logits, [sampler], [mask_of(EOS, 40, 77)])[0].token == 77


def test_a_mask_that_allows_nothing_gives_no_token() -> None:
    """A structure that is at its end gives None, not a token that it forbids."""
    logits = random_logits(8, rows=2)
    samplers = [make_sampler(), make_sampler(temperature=1.0)]
    assert sample(logits, samplers, [mask_of(), mask_of()]) == [None, None]


def test_bad_words_are_followed_across_prompt_and_answer() -> None:
    """The last token of a bad word is forbidden just after its beginning, wherever that beginning stands."""
    logits = np.zeros((1, VOCABULARY), dtype=np.float32)
    logits[0, 9] = 5.0
    sampler = make_sampler((3, 4), bad=[[4, 6, 9]])
    assert sample(logits, [sampler], [None])[0].token == 9
    sampler.append(6)
    assert sample(logits, [sampler], [None])[0].token != 9
    sampler.append(7)
    assert sample(logits, [sampler], [None])[0].token == 9


@given(st.integers(0, 200), st.sampled_from([0, 1, 5, 20]), st.sampled_from([VOCABULARY, 5000]))
def test_logprobs_are_the_models_own(seed: int, top: int, vocabulary: int) -> None:
    """Log-probabilities are log-softmax of the raw logits, whatever was done to choose; top ones come in order."""
    logits = random_logits(seed, vocabulary=vocabulary)
    expected = torch.log_softmax(torch.from_numpy(logits.astype(np.float64)), dim=-1)[0]
    sampling = SamplingParameters(temperature=0.7, top_k=9, repetition_penalty=2.0, logprobs=top, seed=seed)
    choice = sample(logits, [SequenceSampler(sampling, (1,), vocabulary, (EOS,), 0)], [None])[0]
    assert choice.logprob == pytest.approx(expected[choice.token].item(), abs=1e-5)
    values, ids = torch.topk(expected, top)
    assert [each.token for each in choice.top] == ids.tolist()
    np.testing.assert_allclose([each.logprob for each in choice.top], values.numpy(), atol=1e-5)


def test_logprobs_come_only_where_they_are_asked_for() -> None:
    """Greedy or drawn, a row that does not ask has none; one that must be ranked among several has its own."""
    logits = random_logits(5, rows=4)
    samplers = [
        make_sampler(),
        make_sampler(temperature=1.0),
        make_sampler(temperature=1.0, best_of=2),
        make_sampler(logprobs=0),
    ]
    choices = sample(logits, samplers, [None] * 4)
    assert [choice.logprob is not None for choice in choices] == [False, False, True, True]
    assert all(choice.top == () for choice in choices)


def test_prompt_logprobs_are_those_of_the_tokens_that_follow() -> None:
    """Row i gives the log-probability of the prompt's token i + 1."""
    logits = random_logits(9, rows=4)
    expected = torch.log_softmax(torch.from_numpy(logits), dim=-1)
    choices = prompt_logprobs(logits, [4, 8, 15, 16], 2)
    for row, choice in enumerate(choices):
        assert choice.logprob == pytest.approx(expected[row, choice.token].item(), abs=1e-5)
        assert [each.token for each in choice.top] == torch.topk(expected[row], 2).indices.tolist()
    assert [choice.token for choice in choices] == [4, 8, 15, 16]


def test_broken_logits_give_no_token() -> None:
    """A row of NaN or infinity is told apart; the rows beside it are served; minus infinity is a model's right."""
    logits = random_logits(5, rows=5)
    logits[0, 17] = math.nan
    logits[1, 3] = math.inf
    logits[2] = -math.inf
    logits[3, 1:] = -math.inf
    samplers = [make_sampler(temperature=temperature, logprobs=1) for temperature in (0.0, 1.0, 0.0, 1.0, 0.0)]
    choices = sample(logits, samplers, [None] * 5)
    assert choices[:3] == [None, None, None]
    assert choices[3].token == 0
    assert choices[4].token == int(logits[4].argmax())
    assert prompt_logprobs(logits[:1], [3], 2) == [Choice(3)]


def test_the_largest_come_in_order() -> None:
    """The likeliest tokens come by score, equal ones by id, no more than asked for and no more than there are."""
    scores = np.array([1, 5, 5, 0, 5, 2], dtype=np.float32)
    assert largest(scores, 2).tolist() == [1, 2]
    assert largest(scores, 9).tolist() == [1, 2, 4, 5, 0, 3]
