"""The engine's promises, on the real model and the real runtime, without Triton."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from tests.server.engine.conftest import Answer

from fathom_server.engine.engine import Engine
from fathom_server.engine.metrics import EngineLoad
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.errors import (
    CancelledRequestError,
    DeadlineError,
    EngineFailureError,
    InvalidRequestError,
    QueueFullError,
    ShuttingDownError,
)
from fathom_server.text.tokenizer import TextTokenizer

PROMPTS = [
    "What is 17 + 25?",
    "Sort these words: pear, apple, fig",
    "Copy exactly: añb 東京 \U0001f9ff",
    "Hello",
    "How many items are in this list: a, b, c, d? " * 6,
    "Write 2026-03-07 in words.",
]

StartEngine = Callable[..., Engine]


def prompt_ids(tokenizer: TextTokenizer, text: str) -> list[int]:
    return tokenizer.encode_messages([{"role": "user", "content": text}])


def ask(engine: Engine, ids: list[int], timeout_s: float | None = None, **sampling: object) -> Answer:
    answer = Answer()
    engine.submit("test", ids, SamplingParameters(**sampling), answer, timeout_s)  # type: ignore[arg-type]
    return answer


def wait_until_idle(engine: Engine) -> None:
    """Wait until nothing runs, waits or holds a block; the test's time limit ends a wait in vain."""
    while engine.load() != EngineLoad(0, 0, 0.0):
        time.sleep(0.002)


@pytest.mark.parametrize("form", ["cpu fp32", "cpu int8", "portable fp32"])
def test_company_changes_nothing(start_engine: StartEngine, tokenizer: TextTokenizer, form: str) -> None:
    """Mixed lengths, greedy and sampled, give the same tokens alone and together, in small chunks or whole."""
    engine = start_engine(form, max_batch=8, prefill_chunk=16)
    calls = [
        (prompt_ids(tokenizer, text), {"max_tokens": 12 + 9 * place, "ignore_eos": True})
        for place, text in enumerate(PROMPTS)
    ]
    calls += [(ids, {**sampling, "temperature": 0.9, "seed": place}) for place, (ids, sampling) in enumerate(calls)]
    alone = [ask(engine, ids, **sampling).wait().token_ids for ids, sampling in calls]
    together = [ask(engine, ids, **sampling) for ids, sampling in calls]
    assert [answer.wait().token_ids for answer in together] == alone
    whole = start_engine(form, max_batch=2, prefill_chunk=512)
    assert [ask(whole, ids, **sampling).wait().token_ids for ids, sampling in calls] == alone


def test_requests_join_and_leave_between_steps(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """A short request that comes later is answered while a long one is still running."""
    engine = start_engine()
    long = ask(engine, prompt_ids(tokenizer, PROMPTS[0]), max_tokens=1500, ignore_eos=True)
    assert long.first.wait(60)
    short = ask(engine, prompt_ids(tokenizer, PROMPTS[1]), max_tokens=5, ignore_eos=True).wait()
    assert len(short.token_ids) == 5
    assert long.finish_reason is None
    assert len(long.wait().token_ids) == 1500


def test_answer_ends_where_it_should(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """The end token and a stop string end with "stop", max_tokens with "length"; a stop string is never shown."""
    engine = start_engine()
    ids = prompt_ids(tokenizer, PROMPTS[0])
    natural = ask(engine, ids).wait()
    assert natural.finish_reason == "stop"
    assert len(natural.text) >= 2
    cut = ask(engine, ids, max_tokens=1).wait()
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 1)
    stop = natural.text[1:]
    stopped = ask(engine, ids, stop=(stop,)).wait()
    assert (stopped.finish_reason, stopped.text) == ("stop", natural.text.split(stop)[0])


def test_whole_context_can_be_used(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """Prompt and answer may fill the context to its last token, and not one more."""
    engine = start_engine(max_context=64)
    ids = (prompt_ids(tokenizer, PROMPTS[0]) * 9)[:60]
    assert len(ask(engine, ids, max_tokens=4, ignore_eos=True).wait().token_ids) == 4
    assert len(ask(engine, ids, ignore_eos=True).wait().token_ids) == 4
    with pytest.raises(InvalidRequestError, match="max_tokens is 5, but a prompt of 60 tokens leaves 4 of the context"):
        ask(engine, ids, max_tokens=5)
    assert len(ask(engine, (ids * 2)[:63], ignore_eos=True).wait().token_ids) == 1
    with pytest.raises(InvalidRequestError, match="the prompt has 64 tokens; the model takes at most 63"):
        ask(engine, (ids * 2)[:64])


def test_prompt_that_is_none_is_refused(start_engine: StartEngine) -> None:
    """No tokens, and tokens that the vocabulary lacks, are refused by name."""
    engine = start_engine()
    with pytest.raises(InvalidRequestError, match="the prompt is empty"):
        ask(engine, [])
    with pytest.raises(InvalidRequestError, match="input_ids holds -1; the vocabulary has the ids 0 to 1535"):
        ask(engine, [5, -1])
    with pytest.raises(InvalidRequestError, match="input_ids holds 1536"):
        ask(engine, [1536])


@pytest.mark.parametrize("place", ["decoding", "prefilling", "waiting"])
def test_cancelled_request_frees_its_place(start_engine: StartEngine, tokenizer: TextTokenizer, place: str) -> None:
    """Wherever a cancelled request stands, it ends with CancelledRequestError and the others go on unchanged."""
    engine = start_engine(max_batch=2, prefill_chunk=1 if place == "prefilling" else 256)
    ids = prompt_ids(tokenizer, PROMPTS[0])
    expected = ask(engine, ids, max_tokens=40, ignore_eos=True).wait().token_ids
    answers, requests = [], []
    for _ in range(3):
        answers.append(Answer())
        sampling = SamplingParameters(max_tokens=1000, ignore_eos=True)
        requests.append(engine.submit("test", ids * (4 if place == "prefilling" else 1), sampling, answers[-1]))
    victim = {"decoding": 0, "prefilling": 1, "waiting": 2}[place]
    if place != "prefilling":
        assert answers[1].first.wait(60)
    else:
        assert answers[0].first.wait(60)
    engine.cancel(requests[victim])
    assert isinstance(answers[victim].wait().error, CancelledRequestError)
    assert ask(engine, ids, max_tokens=40, ignore_eos=True).wait().token_ids == expected
    for survivor in {0, 1, 2} - {victim}:
        engine.cancel(requests[survivor])
        answers[survivor].wait()
    wait_until_idle(engine)


def test_late_request_ends_with_its_deadline(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """Deadlines end requests that run and requests that wait, and free what they held."""
    engine = start_engine(max_batch=1)
    ids = prompt_ids(tokenizer, PROMPTS[0])
    running = ask(engine, ids, timeout_s=0.3, max_tokens=1900, ignore_eos=True)
    waiting = ask(engine, ids, timeout_s=0.05, max_tokens=5)
    error = waiting.wait().error
    assert isinstance(error, DeadlineError)
    assert "0 of at most 5 tokens were ready" in str(error)
    assert isinstance(running.wait().error, DeadlineError)
    assert len(running.pieces) > 0
    wait_until_idle(engine)


def test_queue_has_a_bound(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """One request more than slots and queue hold is refused at once, and room made later is used."""
    engine = start_engine(max_batch=1, max_queue=2)
    ids = prompt_ids(tokenizer, PROMPTS[0])
    taken = [ask(engine, ids, max_tokens=400, ignore_eos=True) for _ in range(3)]
    with pytest.raises(QueueFullError, match=r"the queue is full \(1 requests run, 2 wait\); try again later"):
        ask(engine, ids)
    taken[0].wait()
    late = ask(engine, ids, max_tokens=1)
    for answer in [*taken, late]:
        assert answer.wait().error is None


def test_stop_fails_what_is_left(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """Stopping answers everyone: no request is left without an end, and new ones are refused."""
    engine = start_engine(max_batch=1)
    ids = prompt_ids(tokenizer, PROMPTS[0])
    answers = [ask(engine, ids, max_tokens=1900, ignore_eos=True) for _ in range(3)]
    assert answers[0].first.wait(60)
    engine.stop()
    assert all(isinstance(answer.wait().error, ShuttingDownError) for answer in answers)
    with pytest.raises(ShuttingDownError):
        ask(engine, ids)


def test_fault_in_a_step_ends_that_step_alone(
    start_engine: StartEngine, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that raises fails its requests by name; the next request is served."""
    engine = start_engine()
    ids = prompt_ids(tokenizer, PROMPTS[0])
    runner = engine._runner

    def broken(*_: object) -> np.ndarray:
        raise RuntimeError("the device is on fire")

    monkeypatch.setattr(runner, "step", broken)
    failed = ask(engine, ids, max_tokens=5).wait()
    assert isinstance(failed.error, EngineFailureError)
    assert "a prefill step failed" in str(failed.error)
    monkeypatch.undo()
    assert ask(engine, ids, max_tokens=5, ignore_eos=True).wait().error is None


def test_logits_that_are_not_finite_are_a_fault(
    start_engine: StartEngine, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that gives NaN fails the request instead of inventing tokens."""
    engine = start_engine()
    nan = np.full((1, 1536), np.nan, dtype=np.float32)
    monkeypatch.setattr(engine._runner, "step", lambda *_: nan)
    failed = ask(engine, prompt_ids(tokenizer, PROMPTS[0]), max_tokens=5).wait()
    assert isinstance(failed.error, EngineFailureError)
    assert "not finite" in str(failed.error)


def test_many_threads_submit_and_cancel(start_engine: StartEngine, tokenizer: TextTokenizer) -> None:
    """Requests from many threads, a third of them cancelled at random moments: every one ends, no slot is lost."""
    engine = start_engine(max_batch=4, max_queue=1000, prefill_chunk=8)
    ids = [prompt_ids(tokenizer, text) for text in PROMPTS]
    expected = [ask(engine, prompt, max_tokens=10, ignore_eos=True).wait().token_ids for prompt in ids]
    failures: list[str] = []

    def caller(seed: int) -> None:
        chance = np.random.default_rng(seed)
        for _ in range(8):
            which = int(chance.integers(len(ids)))
            answer = Answer()
            sampling = SamplingParameters(max_tokens=10, ignore_eos=True)
            request = engine.submit("test", ids[which], sampling, answer)
            if chance.random() < 0.33:
                time.sleep(float(chance.random()) * 0.05)
                engine.cancel(request)
            answer.wait()
            if answer.error is None and answer.token_ids != expected[which]:
                failures.append(f"prompt {which}: {answer.token_ids}")
            if answer.error is not None and not isinstance(answer.error, CancelledRequestError):
                failures.append(repr(answer.error))

    threads = [threading.Thread(target=caller, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    wait_until_idle(engine)
