"""What a serving engine promises beyond single answers: shared prompts, a full cache, several answers, order."""

import time
import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from tests.server.engine.conftest import Answer
from tests.server.engine.test_engine import PROMPTS, prompt_ids, wait_until_idle

from fathom_server.engine.engine import Engine
from fathom_server.engine.request import Piece
from fathom_server.engine.runner.base import StepRow
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.errors import DeadlineError, InvalidRequestError, RequestError
from fathom_server.native.library import library_path
from fathom_server.text.tokenizer import TextTokenizer

StartEngine = Callable[..., Engine]

needs_paged_cache = pytest.mark.skipif(
    library_path() is None, reason="the operator library is not built here, so blocks are slots and are not shared"
)


def submit(engine: Engine, ids: Sequence[int], timeout_s: float | None = None, **options: object) -> Answer:
    """Ask with sampling parameters, and with ``priority``, ``client`` and ``queue_timeout_s`` beside them."""
    answer = Answer()
    beside = {name: options.pop(name) for name in ("priority", "client", "queue_timeout_s") if name in options}
    engine.submit("test", ids, SamplingParameters(**options), answer, timeout_s, **beside)  # type: ignore[arg-type]
    return answer


class StepLog:
    """Remembers the rows of every step that the engine's real runner computes."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[list[tuple[int, int]]] = []
        step = engine._runner.step

        def logged(rows: Sequence[StepRow]) -> np.ndarray:
            self.steps.append([(row.past, len(row.token_ids)) for row in rows])
            return step(rows)

        monkeypatch.setattr(engine._runner, "step", logged)


@pytest.fixture
def system_prompt(tokenizer: TextTokenizer) -> list[int]:
    """A beginning that many prompts share, several blocks long."""
    return prompt_ids(tokenizer, "Answer in one word. " * 20)


@needs_paged_cache
def test_shared_beginning_is_computed_once(start_engine: StartEngine, system_prompt: list[int]) -> None:
    """A second prompt computes only what the first did not hold, and answers as it would without the cache."""
    questions = [[*system_prompt, 40 + turn, 41, 42] for turn in range(4)]
    fresh = [submit(start_engine("cpu int8"), ids, max_tokens=12, ignore_eos=True).wait() for ids in questions]
    engine = start_engine("cpu int8")
    reused = [submit(engine, ids, max_tokens=12, ignore_eos=True).wait() for ids in questions]
    assert [answer.token_ids for answer in reused] == [answer.token_ids for answer in fresh]
    block = engine._pool.geometry.block_tokens
    whole_blocks = len(system_prompt) // block * block
    assert [answer.pieces[0].cached_tokens for answer in reused] == [0, *[whole_blocks] * 3]
    assert engine.metrics.prefix_hits == 3 * whole_blocks


@needs_paged_cache
def test_chat_turn_finds_the_turns_before(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """The answer that a request generated is in the cache, too, when it comes back as part of a prompt."""
    engine = start_engine("cpu int8")
    first = prompt_ids(tokenizer, PROMPTS[0])
    answer = submit(engine, first, max_tokens=100, ignore_eos=True).wait()
    second = submit(engine, [*first, *answer.token_ids, *first], max_tokens=4).wait()
    block = engine._pool.geometry.block_tokens
    assert second.pieces[0].cached_tokens == (len(first) + 99) // block * block


@needs_paged_cache
def test_full_cache_changes_no_answer(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """Where the cache is too small for all, some are computed again, and every answer is what it is alone."""
    ids = [prompt_ids(tokenizer, text) for text in PROMPTS]
    calls = [
        (prompt, {"max_tokens": 150, "ignore_eos": True, "temperature": temperature, "seed": place})
        for place, prompt in enumerate(ids)
        for temperature in (0.0, 0.8)
    ]
    roomy = start_engine("cpu int8")
    alone = [submit(roomy, prompt, **options).wait().token_ids for prompt, options in calls]
    tight = start_engine("cpu int8", max_context=512, kv_cache_tokens=512, max_batch=8, prefill_chunk=48)
    answers = [submit(tight, prompt, **options) for prompt, options in calls]
    assert [answer.wait().token_ids for answer in answers] == alone
    assert tight.metrics.preemptions > 0
    wait_until_idle(tight)


@needs_paged_cache
def test_what_can_never_fit_is_refused(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """A request for more than the whole cache is refused before it is queued."""
    engine = start_engine("cpu int8", max_context=128, kv_cache_tokens=128)
    with pytest.raises(InvalidRequestError, match=r"leaves \d+ of the context of 128"):
        submit(engine, prompt_ids(tokenizer, PROMPTS[0]), max_tokens=128)


@pytest.mark.parametrize("form", ["cpu fp32", "cpu int8"])
def test_several_answers(start_engine: StartEngine, tokenizer: TextTokenizer, form: str) -> None:
    """``n`` answers differ, end one by one, and are the same again for the same seed, in any company."""
    engine = start_engine(form, max_batch=4)
    ids = prompt_ids(tokenizer, PROMPTS[1])
    options = {"n": 3, "temperature": 1.5, "seed": 11, "max_tokens": 16, "ignore_eos": True}
    first = submit(engine, ids, **options).wait()
    noise = [submit(engine, prompt_ids(tokenizer, text), max_tokens=30, ignore_eos=True) for text in PROMPTS]
    again = submit(engine, ids, **options).wait()
    answers = [first.of(sequence) for sequence in range(3)]
    assert [len(answer) for answer in answers] == [16, 16, 16]
    assert len(set(map(tuple, answers))) == 3
    assert [again.of(sequence) for sequence in range(3)] == answers
    assert [piece.is_last for piece in first.pieces].count(True) == 1
    assert sorted(piece.sequence for piece in first.pieces if piece.finish_reason) == [0, 1, 2]
    for answer in noise:
        answer.wait()
    wait_until_idle(engine)


def test_best_of_gives_the_likeliest(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """Of ``best_of`` answers the ``n`` with the highest log-probability a token come, the best first."""
    engine = start_engine()
    ids = prompt_ids(tokenizer, PROMPTS[1])
    options = {"temperature": 1.5, "seed": 5, "max_tokens": 12, "ignore_eos": True, "logprobs": 0}
    every = submit(engine, ids, n=5, **options).wait()
    means = []
    for sequence in range(5):
        logprobs = [choice.logprob for piece in every.pieces if piece.sequence == sequence for choice in piece.choices]
        means.append(sum(logprobs) / len(logprobs))
    best = submit(engine, ids, n=2, best_of=5, **options).wait()
    order = sorted(range(5), key=lambda sequence: -means[sequence])
    assert [best.of(rank) for rank in range(2)] == [every.of(sequence) for sequence in order[:2]]
    wait_until_idle(engine)


@pytest.mark.parametrize(("form", "tolerance"), [("cpu fp32", 2e-3), ("cpu int8", 5e-2)])
def test_log_probabilities_of_answer_and_prompt_agree(
    start_engine: StartEngine, tokenizer: TextTokenizer, form: str, tolerance: float
) -> None:
    """What a token's log-probability was when it was generated, it is as part of a prompt; chunks do not matter."""
    engine = start_engine(form, prefill_chunk=24)
    ids = prompt_ids(tokenizer, PROMPTS[4])
    answer = submit(engine, ids, max_tokens=40, ignore_eos=True, logprobs=3).wait()
    chosen = [choice for piece in answer.pieces for choice in piece.choices]
    assert [choice.token for choice in chosen] == answer.token_ids
    for choice in chosen:
        assert choice.top[0].token == choice.token  # greedy
        assert sorted((top.logprob for top in choice.top), reverse=True) == [top.logprob for top in choice.top]
    whole = submit(engine, [*ids, *answer.token_ids, 5], max_tokens=1, prompt_logprobs=0).wait()
    prompt = whole.pieces[0].prompt_choices
    assert [choice.token for choice in prompt] == [*ids[1:], *answer.token_ids, 5]
    assert len(whole.pieces[0].prompt_choices) == len(ids) + 40
    generated = [choice.logprob for choice in chosen]
    assert [choice.logprob for choice in prompt[len(ids) - 1 : -1]] == pytest.approx(generated, abs=tolerance)


def test_long_prompt_stops_nobody_for_longer_than_a_chunk(
    start_engine: StartEngine, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a prompt of 1,900 tokens is computed, whoever decodes gets a token in every step."""
    engine = start_engine("cpu int8", prefill_chunk=64)
    log = StepLog(engine, monkeypatch)
    running = submit(engine, prompt_ids(tokenizer, PROMPTS[0]), max_tokens=400, ignore_eos=True)
    assert running.first.wait(60)
    long = submit(engine, (prompt_ids(tokenizer, PROMPTS[4]) * 40)[:1900], max_tokens=2)
    long.wait()
    chunks = [step for step in log.steps if any(tokens > 1 for _, tokens in step)][1:]
    assert len(chunks) == -(-1900 // 64)
    assert all(sum(tokens for _, tokens in step if tokens > 1) <= 64 for step in chunks)
    assert all(len(step) == 2 for step in chunks), "the decoding request was left out of a step"
    running.wait()


def test_urgent_request_overtakes(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """A request of lower priority number is answered before those that came earlier."""
    engine = start_engine(max_batch=1)
    ids = prompt_ids(tokenizer, PROMPTS[0])
    order: list[int] = []

    class Ordered(Answer):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def on_piece(self, piece: Piece) -> None:
            super().on_piece(piece)
            if piece.is_last:
                order.append(self.number)

    answers = [Ordered(number) for number in range(5)]
    for number, answer in enumerate(answers):
        sampling = SamplingParameters(max_tokens=60, ignore_eos=True)
        engine.submit("test", ids, sampling, answer, priority=-1 if number == 4 else 0)
    for answer in answers:
        answer.wait()
    assert order.index(4) < 2
    assert [number for number in order if number != 4] == [0, 1, 2, 3]


def test_who_may_not_wait_so_long_is_told(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """A queue limit ends a request that still waits, not one that has been admitted."""
    engine = start_engine(max_batch=1)
    ids = prompt_ids(tokenizer, PROMPTS[0])
    running = submit(engine, ids, queue_timeout_s=5.0, max_tokens=1200, ignore_eos=True)
    assert running.first.wait(60)
    error = submit(engine, ids, queue_timeout_s=0.05, max_tokens=5).wait().error
    assert isinstance(error, DeadlineError)
    assert "longer than it may wait for its turn" in str(error)
    assert running.wait().error is None


def test_waiting_costs_the_text_alone(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """A thousand requests that wait take four bytes a token and little more."""
    engine = start_engine(max_batch=1, max_queue=1100)
    ids = (prompt_ids(tokenizer, PROMPTS[4]) * 20)[:1000]
    running = submit(engine, ids, max_tokens=1000, ignore_eos=True)
    assert running.first.wait(60)

    class Nobody:
        def on_piece(self, piece: Piece) -> None: ...

        def on_error(self, error: RequestError) -> None: ...

    sampling, sink = SamplingParameters(max_tokens=1), Nobody()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    requests = [engine.submit("test", ids, sampling, sink) for _ in range(1000)]
    time.sleep(0.1)
    each = (tracemalloc.get_traced_memory()[0] - before) / 1000
    tracemalloc.stop()
    assert each < 4 * len(ids) + 2048
    assert len(requests) == 1000
    engine.stop()


def test_metrics_count_what_happened(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """Counters and histograms agree with the answers."""
    engine = start_engine("cpu int8")
    ids = [prompt_ids(tokenizer, text) for text in PROMPTS]
    answers = [submit(engine, prompt, max_tokens=9, ignore_eos=True) for prompt in ids]
    for answer in answers:
        answer.wait()
    metrics = engine.metrics
    assert metrics.prompt_tokens == sum(map(len, ids))
    assert metrics.generation_tokens == 9 * len(ids)
    assert metrics.ends == {"length": len(ids)}
    for histogram in (metrics.time_to_first_token, metrics.queue, metrics.prefill, metrics.decode, metrics.inter_token):
        assert histogram.cumulative()[-1] == len(ids)
    steps = sum(histogram.cumulative()[-1] for histogram in metrics.steps.values())
    assert 9 <= steps <= 9 * len(ids) + len(ids)
