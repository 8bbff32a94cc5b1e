"""A cascade's decision without Triton: settings, signals, what is certain when, router, budget, hook."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fathom_client import protocol
from fathom_server.cascade.budget import Budget
from fathom_server.cascade.evidence import Evidence, entropy
from fathom_server.cascade.hook import SmallAnswer, load_hook
from fathom_server.cascade.judge import Judge
from fathom_server.cascade.logistic import TOKEN_FEATURES, Logistic
from fathom_server.cascade.model_behind import refusal_of
from fathom_server.cascade.question import Question
from fathom_server.cascade.router import Prompt, Router
from fathom_server.cascade.settings import CascadeSettings, RouterSettings
from fathom_server.errors import (
    CancelledRequestError,
    DeadlineError,
    EngineFailureError,
    InvalidRequestError,
    QueueFullError,
    SettingsError,
)

SETTINGS = CascadeSettings("small", "large", -1.0, signal="min_logprob")


def texts(*values: str) -> npt.NDArray[np.object_]:
    return np.array([value.encode() for value in values], dtype=np.object_)


def question(**tensors: npt.NDArray[Any]) -> Question:
    return Question("id", tensors, {}, 10.0)


def response(logprobs: list[float], text: str = "x", reason: str = "") -> Mapping[str, npt.NDArray[Any]]:
    """A streamed response as an LLM's backend writes it."""
    return {
        protocol.TEXT_OUTPUT: texts(text),
        protocol.NUM_OUTPUT_TOKENS: np.array([len(logprobs)], dtype=np.uint32),
        protocol.NUM_INPUT_TOKENS: np.array([7], dtype=np.uint32),
        protocol.OUTPUT_LOG_PROBS: np.array(logprobs, dtype=np.float32),
        protocol.FINISH_REASON: texts(reason),
    }


async def verdicts(settings: CascadeSettings, *parts: list[float]) -> list[bool | None]:
    """What is thought after each part of an answer, whose last part ends it."""
    opinion = Judge(settings, None, None).begin(question(), None, _no_samples, lambda: 1.0)
    evidence, found = Evidence(), []
    for place, part in enumerate(parts, start=1):
        is_last = place == len(parts)
        evidence.add(response(part, reason="stop" if is_last else ""))
        found.append((await opinion.of(evidence, is_whole=is_last))[0])
    return found


async def _no_samples() -> list[str]:
    raise AssertionError("nobody asked for samples")


async def test_lowest_logprob_distrusts_at_the_first_doubtful_token_and_trusts_at_the_end() -> None:
    """A minimum can only fall, so doubt is certain at once; trust is not, before the answer is whole."""
    assert await verdicts(SETTINGS, [-0.1], [-2.0], [-0.1]) == [None, False, False]
    assert await verdicts(SETTINGS, [-0.1], [-0.9], [-0.1]) == [None, None, True]


async def test_mean_decides_only_when_it_cannot_change() -> None:
    """A mean may still rise or fall, so it decides at the end of the answer."""
    settings = replace(SETTINGS, signal="mean_logprob")
    assert await verdicts(settings, [-3.0], [-0.1], [-0.1], [-0.1]) == [None, None, None, True]


async def test_a_beginning_decides_where_the_settings_say_so() -> None:
    """With decide_after_tokens later tokens have no say, and the rest of the answer is not waited for."""
    settings = replace(SETTINGS, signal="mean_logprob", decide_after_tokens=3)
    assert await verdicts(settings, [-0.5], [-0.5], [-0.5], [-9.0]) == [None, None, True, True]


async def test_an_answer_without_tokens_is_not_trusted() -> None:
    """Nothing is known of an answer that has no token, so it is handed over."""
    assert await verdicts(SETTINGS, []) == [False]


def test_evidence_of_several_answers_is_that_of_the_most_doubtful() -> None:
    """Of answers laid end to end each has its own tokens, and the worst of them speaks for all."""
    evidence = Evidence(2)
    listed = json.dumps([{"token_id": 1, "logprob": -0.5, "top": [{"logprob": math.log(0.5)}] * 2}])
    evidence.add(
        {
            protocol.TEXT_OUTPUT: texts("a", "b"),
            protocol.NUM_OUTPUT_TOKENS: np.array([2, 1], dtype=np.uint32),
            protocol.SEQUENCE_INDEX: np.array([0, 1], dtype=np.int32),
            protocol.OUTPUT_LOG_PROBS: np.array([-0.1, -0.2, -4.0], dtype=np.float32),
            protocol.LOGPROBS: texts("[]", listed),
            protocol.FINISH_REASON: texts("stop", "length"),
        }
    )
    assert [each.text for each in evidence.sequences] == ["a", "b"]
    assert evidence.value("min_logprob") == pytest.approx(-4.0)
    assert evidence.sequences[0].value("mean_logprob") == pytest.approx(-0.15)
    assert evidence.sequences[1].entropies == [pytest.approx(math.log(2))]
    assert math.isnan(evidence.value("max_entropy"))  # of the first answer no entropies were told


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [([1.0], 0.0), ([0.5, 0.5], math.log(2)), ([0.5], math.log(2)), ([0.25] * 4, math.log(4))],
)
def test_entropy_counts_what_is_not_listed_as_one_token(probabilities: list[float], expected: float) -> None:
    """The rest of the probability is one token more: a lower bound of the true entropy."""
    assert entropy([math.log(each) for each in probabilities]) == pytest.approx(expected, abs=1e-9)


def test_entropies_are_doubtful_above_the_threshold_and_logprobs_below() -> None:
    """Thresholds are in the signal's own unit, and no number is never trusted."""
    entropies = replace(SETTINGS, signal="max_entropy", threshold=0.5)
    assert [entropies.is_trusted(value) for value in (0.4, 0.6, math.nan)] == [True, False, False]
    assert [SETTINGS.is_trusted(value) for value in (-0.5, -1.5, math.nan)] == [True, False, False]


def test_logistic_regression_learns_what_is_there_to_learn(tmp_path: Path) -> None:
    """Fitted probabilities follow the labels' odds, survive a save, and refuse vectors of another length."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 2)) * (1.0, 50.0)
    labels = rng.random(4000) < 1 / (1 + np.exp(-(2 * features[:, 0] - 1)))
    model = Logistic.fit(features, labels, tokens=False, penalty=1.0)
    assert model.probability([0.0, 0.0]) == pytest.approx(1 / (1 + math.e), abs=0.05)
    assert model.probability([1.0, 100.0]) == pytest.approx(1 / (1 + 1 / math.e), abs=0.05)
    settings = replace(SETTINGS, encoder="minilm", router=RouterSettings(prompt_threshold=0.5, classifier=model))
    settings.save(tmp_path)
    assert CascadeSettings.load(tmp_path) == settings
    with pytest.raises(SettingsError, match="3 features were given to a regression of 2"):
        model.probability([1.0, 2.0, 3.0])


def test_logistic_regression_of_one_class_gives_its_share() -> None:
    """Where nothing was ever to be gained, a gain is improbable, whatever is asked."""
    model = Logistic.fit(np.ones((98, 1)), np.zeros(98, dtype=bool), tokens=False, penalty=1.0)
    assert model.probability([5.0]) == pytest.approx(0.01)


def test_budget_bounds_the_share_over_any_run() -> None:
    """However doubtful all answers are, of n requests at most share × n and the burst are handed over."""
    budget, given = Budget(0.25, 4), []
    for _ in range(1000):
        budget.count_request()
        given.append(budget.take())
    longest = [sum(given[begin : begin + run]) for run in (8, 40, 400) for begin in range(1000 - run)]
    allowed = [0.25 * run + 4 for run in (8, 40, 400) for _ in range(1000 - run)]
    assert all(count <= most for count, most in zip(longest, allowed, strict=True))
    assert 250 <= sum(given) <= 254
    assert not Budget(0.0, 4).take()
    assert all(Budget(1.0, 1).take() for _ in range(3))


def test_router_knows_length_task_and_pattern() -> None:
    """Rules send long prompts, named tasks and matching questions straight to the large model, others nowhere."""
    router = Router(RouterSettings(40, ("translate",), (r"\d+ [+-] \d+",)))
    messages = [{"role": "system", "content": "x" * 10}, {"role": "user", "content": "What is 3 + 4?"}]
    sums = Prompt.of({protocol.MESSAGES: texts(json.dumps(messages))})
    assert sums == Prompt("What is 3 + 4?", 24)
    assert router.by_rules(sums, {}) == "route_pattern"
    plain = Prompt.of({protocol.TEXT_INPUT: texts("hello")})
    assert router.by_rules(plain, {}) is None
    assert router.by_rules(plain, {protocol.TASK_PARAMETER: "translate"}) == "route_task"
    assert router.by_rules(Prompt.of({protocol.INPUT_IDS: np.arange(41)}), {}) == "route_length"
    parts = [{"role": "user", "content": [{"type": "text", "text": "9 - 1"}]}, {"role": "assistant", "content": None}]
    with_tools = Prompt.of({protocol.MESSAGES: texts(json.dumps({"messages": parts, "tools": []}))})
    assert router.by_rules(with_tools, {}) == "route_pattern"
    assert router.by_rules(Prompt.of({protocol.MESSAGES: texts("{broken")}), {}) is None


def test_small_model_is_asked_for_evidence_and_the_caller_gets_what_it_asked_for() -> None:
    """Log-probabilities that only the decision needs are asked for, and do not reach the caller."""
    asked = question(
        text_input=texts("hi"),
        sampling_parameters=texts('{"temperature": 0.5, "logprobs": 1}'),
        return_num_output_tokens=np.array([True]),
    )
    sent = asked.for_small(likeliest=True)
    assert json.loads(sent[protocol.SAMPLING_PARAMETERS][0]) == {"temperature": 0.5, "logprobs": 20}
    assert sent[protocol.RETURN_LOG_PROBS][0]
    top = [{"token_id": n, "logprob": -n} for n in range(20)]
    listed = texts(json.dumps([{"token_id": 0, "logprob": 0.0, "top": top}]))
    given = asked.asked_for({**response([-0.5]), protocol.LOGPROBS: listed})
    assert sorted(given) == [protocol.LOGPROBS, protocol.NUM_OUTPUT_TOKENS, protocol.TEXT_OUTPUT]
    assert len(json.loads(given[protocol.LOGPROBS][0])[0]["top"]) == 1
    assert sorted(question().asked_for({**response([-0.5]), protocol.LOGPROBS: listed})) == [protocol.TEXT_OUTPUT]
    samples = asked.for_samples(3, 0.7)
    assert json.loads(samples[protocol.SAMPLING_PARAMETERS][0]) == {"n": 3, "temperature": 0.7}


def test_sampling_parameters_that_are_broken_are_left_for_the_model_to_refuse() -> None:
    """What is no JSON object goes on as it came, so that the caller is told by the model."""
    for broken in ("{", "[]", "3"):
        asked = question(text_input=texts("hi"), sampling_parameters=texts(broken))
        assert asked.for_small(likeliest=True)[protocol.SAMPLING_PARAMETERS][0] == broken.encode()
        assert asked.sequences == 1


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("temperature is 101", InvalidRequestError),
        ("UNAVAILABLE: the queue is full", QueueFullError),
        ("NOT_FOUND: no such model", QueueFullError),
        ("Request for unknown model: 'chat_large' is not found", QueueFullError),
        ("Request for unknown model: 'chat_large' has no available versions", QueueFullError),
        ("INTERNAL: a step failed", EngineFailureError),
        ("CANCELLED: the caller left", CancelledRequestError),
        ("DEADLINE_EXCEEDED: late", DeadlineError),
    ],
)
def test_refusals_of_models_keep_their_status(message: str, kind: type[Exception]) -> None:
    """A stream's error message begins with its status, and a model that is away counts as unavailable."""
    assert type(refusal_of(message)) is kind


def test_hook_is_a_users_function(tmp_path: Path) -> None:
    """A file's function trust is the signal; a file without one, or that fails, is refused by name."""
    file = tmp_path / "hook.py"
    file.write_text("def trust(answer):\n    return float('?' not in answer.text)\n")
    answer = SmallAnswer("q", "sure", "stop", (-0.1,), (0.2,), {})
    assert load_hook(file)(answer) == 1.0
    for content, reason in (("x = 1\n", "has no function trust"), ("1 / 0\n", "ZeroDivisionError")):
        file.write_text(content)
        with pytest.raises(SettingsError, match=reason):
            load_hook(file)
    with pytest.raises(SettingsError, match="is no Python file"):
        load_hook(tmp_path / "absent.py")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signal": "mood"}, "signal is 'mood'; valid: mean_logprob"),
        ({"large": "small"}, "name two models"),
        ({"threshold": math.nan}, "threshold is nan; it must be a number"),
        ({"budget": 1.5}, "budget is 1.5; it must be a share from 0 to 1"),
        ({"samples": 1}, "samples is 1; it must be at least 2"),
        ({"signal": "verifier"}, "verifier names no model"),
        ({"signal": "learned"}, "nothing was learned; run fathom-export calibrate"),
        ({"signal": "agreement", "decide_after_tokens": 4}, "signal 'agreement' needs the whole answer"),
        ({"timeout_s": 0.0}, "timeout_s is 0.0; it must be above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    """Each refusal names the setting, its value and the remedy."""
    with pytest.raises(SettingsError, match=message):
        replace(SETTINGS, **change)


def test_settings_refuse_routers_that_cannot_work() -> None:
    """A pattern that is none, a threshold without a classifier, a classifier without an encoder."""
    with pytest.raises(SettingsError, match=r"large_patterns has '\(', which is no regular expression"):
        RouterSettings(large_patterns=("(",))
    with pytest.raises(SettingsError, match="there is no trained classifier"):
        RouterSettings(prompt_threshold=0.5)
    classifier = Logistic(0.0, [1.0], [0.0], [1.0])
    with pytest.raises(SettingsError, match="encoder names no model"):
        replace(SETTINGS, router=RouterSettings(prompt_threshold=0.5, classifier=classifier))
    with pytest.raises(SettingsError, match="2 weights, 1 means"):
        Logistic(0.0, [1.0, 2.0], [0.0], [1.0])
    assert len(TOKEN_FEATURES) == len(Evidence().features(_one_token()))


def _one_token() -> Any:
    evidence = Evidence()
    evidence.add(response([-0.5]))
    evidence.sequences[0].entropies = [0.1]
    return evidence.sequences[0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"small": "a"}', '{"router": null}'])
def test_settings_files_that_are_broken_are_refused_by_name(tmp_path: Path, content: str) -> None:
    """Whatever is wrong with cascade.json, the message names the file and says what to run."""
    (tmp_path / "cascade.json").write_text(content)
    with pytest.raises(SettingsError, match=r"cascade\.json.*export the model again"):
        CascadeSettings.load(tmp_path)
    with pytest.raises(SettingsError, match="is missing"):
        CascadeSettings.load(tmp_path / "elsewhere")
