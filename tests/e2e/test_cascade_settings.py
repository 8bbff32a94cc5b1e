"""A cascade in this process, over models of a real Triton: what needs settings of its own."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.e2e.cascade_deployment import EASY, HARD, ask
from tests.serving import FathomServe

from fathom_client import protocol
from fathom_server.cascade.cascade import Cascade
from fathom_server.cascade.evidence import TensorValues
from fathom_server.cascade.helpers import Helpers
from fathom_server.cascade.hook import SmallAnswer
from fathom_server.cascade.model_behind import ModelBehind
from fathom_server.cascade.question import Question
from fathom_server.cascade.settings import CascadeSettings


class Collector:
    """Takes an answer's responses."""

    def __init__(self) -> None:
        self.responses: list[dict[str, Any]] = []

    async def send(self, tensors: TensorValues, *, is_last: bool) -> None:
        """See ``AnswerSink``."""
        self.responses.append(dict(tensors))

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(
            bytes(each[protocol.TEXT_OUTPUT][0]).decode() for each in self.responses if protocol.TEXT_OUTPUT in each
        )

    @property
    def details(self) -> dict[str, Any]:
        """What the last response tells."""
        given: dict[str, Any] = json.loads(self.responses[-1][protocol.CASCADE][0])
        return given


def answer_by(
    server: FathomServe, settings: CascadeSettings, prompts: list[str], hook: Any = None
) -> list[tuple[str, dict[str, Any]]]:
    """Texts and details of streamed answers, one after the other, by a cascade of these settings."""

    async def go() -> list[tuple[str, dict[str, Any]]]:
        small, large = (ModelBehind(name, server.url) for name in (settings.small, settings.large))
        helpers = Helpers(server.url, settings.encoder, settings.verifier)
        cascade = Cascade(settings, small, large, helpers, hook)
        found = []
        for number, prompt in enumerate(prompts):
            tensors = {
                protocol.MESSAGES: np.array([json.dumps(ask(prompt)).encode()], dtype=np.object_),
                protocol.MAX_TOKENS: np.array([32], dtype=np.int32),
                protocol.STREAM: np.array([True]),
            }
            sink = Collector()
            await cascade.answer(Question(f"request-{number}", tensors, {}, 20.0), sink)
            found.append((sink.text, sink.details))
        for each in (small, large, helpers):
            await each.close()
        return found

    return asyncio.run(go())


BASE = CascadeSettings("small", "large", 0.0)


@pytest.mark.parametrize(
    ("signal", "threshold"),
    [("mean_logprob", -0.02), ("max_entropy", 0.2), ("mean_entropy", 0.1), ("agreement", 0.9)],
)
def test_every_signal_tells_easy_from_hard(cascade_server: FathomServe, signal: Any, threshold: float) -> None:
    """Each trusts the small model with what it knows, and not with what it has to guess."""
    settings = replace(BASE, signal=signal, threshold=threshold, samples=4, sample_temperature=1.0)
    (_, easy), (_, hard) = answer_by(cascade_server, settings, [EASY, HARD])
    assert (easy["answered_by"], hard["answered_by"]) == ("small", "large")
    assert easy["value"] is not None
    assert (easy["value"] > hard["value"]) == (not signal.endswith("entropy"))


def test_verifier_scores_question_and_answer(cascade_server: FathomServe) -> None:
    """A model of the task rerank decides; one that is away leaves the answer untrusted."""
    settings = replace(BASE, signal="verifier", verifier="reranker", threshold=0.9)
    (text, found), (_, other) = answer_by(cascade_server, settings, ["Repeat exactly: hello", EASY])
    assert 0 <= found["value"] <= 1
    assert 0 <= other["value"] < 0.9
    assert other["answered_by"] == "large"
    assert text
    ((_, away),) = answer_by(cascade_server, replace(settings, verifier="nobody"), [EASY])
    assert (away["answered_by"], away["reason"], away["value"]) == ("large", "doubted", None)


def test_hook_decides_and_one_that_fails_counts_as_doubt(cascade_server: FathomServe) -> None:
    """A user's function sees question, answer and tokens; whatever it raises ends in a hand-over, not in an error."""
    seen: list[SmallAnswer] = []

    def trust(answer: SmallAnswer) -> float:
        seen.append(answer)
        return {EASY: 1.0}[answer.prompt]

    settings = replace(BASE, signal="hook", threshold=0.5)
    (_, easy), (_, hard) = answer_by(cascade_server, settings, [EASY, HARD], trust)
    assert (easy["answered_by"], easy["value"]) == ("small", 1.0)
    assert (hard["answered_by"], hard["value"]) == ("large", None)
    assert len(seen[0].logprobs) == len(seen[0].entropies) > 0
    assert seen[0].finish_reason == "stop"


def test_budget_bounds_the_share_that_is_handed_over(cascade_server: FathomServe) -> None:
    """Where all is doubted, only the budget's share goes to the large model, and the rest is marked."""
    settings = replace(BASE, signal="min_logprob", threshold=1.0, budget=0.25, budget_burst=1)
    found = [details for _, details in answer_by(cascade_server, settings, [HARD] * 8)]
    assert [each["answered_by"] for each in found].count("large") == 2
    assert {each["reason"] for each in found} == {"doubted", "budget"}


def test_routed_requests_ask_the_small_model_nothing(cascade_server: FathomServe) -> None:
    """What a rule sends straight to the large model costs no token of the small one."""
    settings = replace(BASE, threshold=-9.0, router=replace(BASE.router, large_patterns=("day month",)))
    (_, easy), (_, hard) = answer_by(cascade_server, settings, [EASY, HARD])
    assert (easy["answered_by"], easy["reason"]) == ("small", "trusted")
    assert (hard["answered_by"], hard["reason"]) == ("large", "route_pattern")
    assert hard["small"] == {"model": "small", "input_tokens": 0, "output_tokens": 0}


def test_without_the_small_model_the_large_one_answers(cascade_server: FathomServe) -> None:
    """A small model that is not loaded costs no answer; one that refuses the request does."""
    ((text, details),) = answer_by(cascade_server, replace(BASE, small="nobody", threshold=-9.0), [HARD])
    assert text
    assert (details["answered_by"], details["reason"]) == ("large", "small_unavailable")


def test_a_trusted_beginning_streams_before_the_end(cascade_server: FathomServe) -> None:
    """With decide_after_tokens an answer is held for its first tokens alone."""
    prompt = "Repeat after me: kettle river island paper king queen iron jewel engine"
    whole = replace(BASE, signal="mean_logprob", threshold=-9.0)
    early = replace(whole, decide_after_tokens=2)
    ((text, held),) = answer_by(cascade_server, whole, [prompt])
    ((same, soon),) = answer_by(cascade_server, early, [prompt])
    assert text == same
    assert held["reason"] == soon["reason"] == "trusted"
    assert soon["value"] != held["value"]
