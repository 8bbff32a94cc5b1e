"""A matcher's promises: drafts, forced tokens, rollback, ends, and many at once."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.server.engine import grammar_tokenizers
from tests.server.engine.grammar_walk import Model, allowed, at_random, check_json, next_allowed, walk

from fathom_server.engine.grammar import MaskPool, Matcher
from fathom_server.engine.structured_output import StructuredOutput

CALL = {
    "type": "object",
    "properties": {
        "name": {"enum": ["get_weather", "get_time"]},
        "arguments": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "sure": {"type": "boolean"},
    },
    "required": ["name", "arguments", "sure"],
    "additionalProperties": False,
}
MATCHERS = 16


@pytest.fixture(scope="module", params=["large", "byte level", "sentencepiece"])
def model(request: pytest.FixtureRequest) -> Model:
    return {
        "large": lambda: grammar_tokenizers.example("large"),
        "byte level": grammar_tokenizers.byte_level,
        "sentencepiece": lambda: grammar_tokenizers.sentencepiece(leading_space=True),
    }[request.param]()


def _answer(model: Model, matcher: Matcher, seed: int) -> list[int]:
    """Ids of a random answer, without its end."""
    taken: list[int] = []
    choose = at_random(model, seed)
    while not matcher.is_complete:
        token = choose(next_allowed(model, matcher), taken)
        matcher.advance(token)
        if token not in model.eos_token_ids:
            taken.append(token)
    return taken


def _mask(model: Model, matcher: Matcher) -> list[int]:
    return next_allowed(model, matcher).tolist()


@pytest.mark.parametrize("seed", range(8))
def test_masks_of_drafts_are_those_of_single_steps(model: Model, seed: int) -> None:
    """Masks after drafted tokens equal the masks that come when the tokens are accepted one by one, at every place."""
    answer = _answer(model, model.matcher("json", json.dumps(CALL)), seed)
    generator = random.Random(seed)
    stepwise, drafted = (model.matcher("json", json.dumps(CALL)) for _ in range(2))
    place = 0
    while place < len(answer):
        drafts = answer[place : place + generator.randrange(1, 6)]
        rows = np.full((len(drafts) + 1, model.words), -1, dtype=np.int32)
        assert drafted.masks(drafts, rows) == len(drafts) + 1
        for draft, row in zip(drafts, rows, strict=False):
            assert allowed(row).tolist() == _mask(model, stepwise)
            stepwise.advance(draft)
        assert allowed(rows[-1]).tolist() == _mask(model, stepwise)
        for draft in drafts:
            drafted.advance(draft)
        place += len(drafts)


@pytest.mark.parametrize("seed", range(8))
def test_a_draft_that_is_not_allowed_ends_the_rows(model: Model, seed: int) -> None:
    """Rows are valid up to the first draft that the mask before it forbids, and the ends are such drafts too."""
    answer = _answer(model, model.matcher("json", json.dumps(CALL)), seed)
    generator = random.Random(seed)
    cut = generator.randrange(len(answer))
    matcher = model.matcher("json", json.dumps(CALL))
    before = _mask(model, matcher)
    rows = np.full((len(answer) + 3, model.words), -1, dtype=np.int32)
    assert matcher.masks(answer, rows) == len(answer) + 1
    assert allowed(rows[len(answer)]).tolist() == sorted(model.eos_token_ids)
    assert matcher.masks([*answer, min(model.eos_token_ids)], rows) == len(answer) + 1
    forbidden = sorted(set(range(model.vocabulary)) - set(allowed(rows[cut]).tolist()))
    wrong = generator.choice([*forbidden, model.vocabulary + 5, -1])
    assert matcher.masks([*answer[:cut], wrong, *answer[cut:]], rows) == cut + 1
    assert _mask(model, matcher) == before
    assert matcher.error is None


def test_drafts_leave_no_trace(model: Model) -> None:
    """A matcher that tries random drafts at every step makes the very masks of one that tries none."""
    plain, tried = (model.matcher("json", json.dumps(CALL)) for _ in range(2))
    generator = random.Random(5)
    rows = np.empty((9, model.words), dtype=np.int32)
    for token in _answer(model, model.matcher("json", json.dumps(CALL)), seed=3):
        now = _mask(model, plain)
        guesses = [generator.choice(now), *(generator.randrange(model.vocabulary) for _ in range(7))]
        tried.masks(guesses, rows)
        tried.forced()
        assert tried.can_end == plain.can_end
        assert _mask(model, tried) == now
        plain.advance(token)
        tried.advance(token)


def test_forced_tokens_are_what_alone_the_masks_allow(model: Model) -> None:
    """Where tokens are forced each is its mask's only one; keys and brackets of an object are, and spell its text."""
    matcher = model.matcher("json", json.dumps(CALL))
    taken: list[int] = []
    forced_tokens = 0
    choose = at_random(model, seed=1)
    while not matcher.is_complete:
        forced = matcher.forced()
        forced_tokens += len(forced)
        rows = np.full((len(forced) + 1, model.words), -1, dtype=np.int32)
        assert matcher.masks(forced, rows) == len(forced) + 1
        for token, row in zip(forced, rows, strict=False):
            assert allowed(row).tolist() == [token]
        token = forced[0] if forced else choose(next_allowed(model, matcher), taken)
        matcher.advance(token)
        taken.append(token)
    check_json(model.text([token for token in taken if token not in model.eos_token_ids]), CALL)
    assert forced_tokens > len(taken) / 4


def test_the_answer_ends_by_any_end_token_and_nothing_follows(model: Model) -> None:
    """Every end is allowed exactly where the grammar may end; after it nothing is allowed, and more is refused."""
    for end in model.eos_token_ids:
        matcher = model.matcher("regex", "a+")
        assert not matcher.can_end
        with pytest.raises(ValueError, match="ends the answer where the grammar does not"):
            matcher.advance(end)
        matcher.advance(model.tokenizer.tokenizer.token_to_id("a"))
        assert matcher.can_end
        assert not matcher.is_complete
        assert model.eos_token_ids < set(_mask(model, matcher))
        matcher.advance(end)
        assert matcher.is_complete
        assert _mask(model, matcher) == []
        assert matcher.forced() == []
        with pytest.raises(ValueError, match="after the end"):
            matcher.advance(end)


def test_a_token_that_is_not_allowed_is_refused(model: Model) -> None:
    """Accepting what the mask forbids is an error of the caller, and the matcher stays where it was."""
    matcher = model.matcher("choice", '["yes", "no"]')
    before = _mask(model, matcher)
    forbidden = next(token for token in range(model.vocabulary) if token not in before + sorted(model.eos_token_ids))
    for wrong in (forbidden, -1, model.vocabulary, 10**9):
        with pytest.raises(ValueError, match=f"token {wrong} is not allowed here"):
            matcher.advance(wrong)
    assert matcher.error is None
    assert _mask(model, matcher) == before


def test_matchers_of_one_grammar_are_independent(model: Model) -> None:
    """One answer's steps are unseen by another of the same grammar."""
    grammar = model.compiler.compile(StructuredOutput("json", json.dumps(CALL)))
    first, second = grammar.matcher(), grammar.matcher()
    before = _mask(model, second)
    _answer(model, first, seed=2)
    assert _mask(model, second) == before
    assert not second.is_complete


def test_the_buffer_is_checked(model: Model) -> None:
    """A buffer of another width, type or too few rows is refused before anything is written."""
    matcher = model.matcher("json_object")
    for out in (
        np.zeros((1, model.words + 1), dtype=np.int32),
        np.zeros((1, model.words), dtype=np.int64),
        np.zeros((2, model.words * 2), dtype=np.int32)[:, ::2],
    ):
        with pytest.raises(ValueError, match="out must be"):
            matcher.masks((), out)
    with pytest.raises(ValueError, match="2 drafts need 3"):
        matcher.masks([1, 2], np.zeros((2, model.words), dtype=np.int32))


def test_sixteen_matchers_of_one_grammar_on_many_threads(model: Model) -> None:
    """Answers made at once on 16 threads, from one grammar and from several, are those made alone."""
    values = [json.dumps(CALL), "true", json.dumps({"type": "array", "items": {"$ref": "#"}, "maxItems": 3})]
    alone = [walk(model, model.matcher("json", values[i % 3]), at_random(model, i)) for i in range(MATCHERS)]
    barrier = threading.Barrier(MATCHERS)

    def one(index: int) -> str:
        barrier.wait()
        return walk(model, model.matcher("json", values[index % 3]), at_random(model, index))

    with ThreadPoolExecutor(MATCHERS) as pool:
        assert list(pool.map(one, range(MATCHERS))) == alone


def test_compiling_on_many_threads(model: Model) -> None:
    """A compiler used for the first time by 16 threads at once gives each a grammar that works."""
    fresh = Model.of(model.tokenizer, model.vocabulary, model.eos_token_ids)
    barrier = threading.Barrier(MATCHERS)

    def one(index: int) -> str:
        barrier.wait()
        return walk(fresh, fresh.matcher("choice", json.dumps([f"answer {index % 4}"])), at_random(fresh, index))

    with ThreadPoolExecutor(MATCHERS) as pool:
        assert list(pool.map(one, range(MATCHERS))) == [f"answer {index % 4}" for index in range(MATCHERS)]


@pytest.mark.parametrize("threads", [1, 3])
def test_the_pool_gives_each_matcher_its_masks(model: Model, threads: int) -> None:
    """Masks from the pool's threads equal those computed in place, in the order of the matchers, for 16 at a time."""
    matchers = [model.matcher("json", json.dumps(CALL)) for _ in range(MATCHERS)]
    answers = [_answer(model, model.matcher("json", json.dumps(CALL)), seed) for seed in range(MATCHERS)]
    pool = MaskPool(threads)
    try:
        for place in range(0, 12, 3):
            drafts = [answer[place : place + 3 + index % 2] for index, answer in enumerate(answers)]
            rows = pool.start(matchers, drafts).wait()
            for matcher, drafted, got in zip(matchers, drafts, rows, strict=True):
                expected = np.empty((len(drafted) + 1, model.words), dtype=np.int32)
                valid = matcher.masks(drafted, expected)
                assert got.dtype == np.int32
                assert np.array_equal(got, expected[:valid])
            for matcher, answer in zip(matchers, answers, strict=True):
                for token in answer[place : place + 3]:
                    matcher.advance(token)
        assert pool.start([], []).wait() == []
    finally:
        pool.close()
