"""Load tests of a twin: what a real model shows seldom is told by kind, ends in time and leaves the rest unharmed."""

import random
from collections import Counter
from pathlib import Path

import pytest
from tests.loadtest.command import run, write_prompts
from tests.loadtest.twin_server import TwinServer

from fathom_client import metric_names
from fathom_loadtest.errors import RefusedRequest
from fathom_loadtest.twin.plan import Wishes, plan_answer
from fathom_loadtest.twin.settings import TwinSettings

KINDS = {
    "INTERNAL": "ServerError",
    "INVALID_ARGUMENT": "InvalidRequestError",
    "stall": "DeadlineExceededError",
    "break": "ServerError",
    "cut": "ProtocolError",
}
REQUESTS = 60
TOKENS = 12


def planned(twin: TwinServer) -> Counter[str]:
    """What the flaky model's first requests meet, by its settings and its seed."""
    settings = TwinSettings.load(twin.folder / "twin.toml")
    flaky = next(model for model in settings.models if model.name == "flaky")
    met: Counter[str] = Counter()
    for number in range(REQUESTS):
        try:
            plan = plan_answer(flaky, Wishes(TOKENS), {}, random.Random(f"{settings.seed}/flaky/{number}"))
        except RefusedRequest as refusal:
            met[refusal.code] += 1
        else:
            met["none" if plan.fault is None else plan.fault.kind] += 1
    return met


@pytest.mark.timeout(120)
def test_every_failure_is_counted_by_its_kind(twin: TwinServer, tmp_path: Path) -> None:
    """Refusals, broken and cut streams and stalls come out as exactly those that the twin drew; the rest succeeds.

    A stalled answer is ended by the request's own time limit, and its slot at the twin is free again.
    """
    expected = planned(twin)
    assert expected.keys() == {*KINDS, "none"}
    prompts = write_prompts(tmp_path, "time year people")
    arguments = ["--model", "flaky", "--users", 6, "--requests", REQUESTS, "--prompts", prompts, "--timeout-s", 1]
    done = run(twin, tmp_path / "out", [*arguments, "--output-tokens", TOKENS, "--warmup-requests", 0])
    assert done.status == 0, done.stderr
    kinds: Counter[str] = Counter()
    for fault, kind in KINDS.items():
        kinds[kind] += expected[fault]
    figures = done.figures()
    assert figures["errors"] == dict(kinds)
    assert (figures["succeeded"], figures["failed"]) == (expected["none"], REQUESTS - expected["none"])
    assert figures["total_output_tokens"] == expected["none"] * TOKENS
    assert {one.num_output_tokens for one in done.records if one.succeeded} == {TOKENS}
    begun = [one for one in done.records if one.error_kind == "DeadlineExceededError" and one.response_ns]
    assert begun, "no stalled answer had begun"
    twin.settled("flaky", {metric_names.REQUESTS_RUNNING: 0.0, metric_names.REQUESTS_WAITING: 0.0})


@pytest.mark.timeout(120)
def test_overload_is_told_and_passes(twin: TwinServer, tmp_path: Path) -> None:
    """Twelve users overload two slots and two places in the queue, are told so, and one user after them is not."""
    prompts = write_prompts(tmp_path, "time year people")
    arguments = ["--model", "tight", "--users", "1,12,1", "--requests", 24, "--prompts", prompts]
    done = run(twin, tmp_path / "out", [*arguments, "--warmup-requests", 0, "--output-tokens", TOKENS])
    assert done.status == 0, done.stderr
    alone, crowd, afterwards = (done.figures(stage) for stage in range(3))
    assert alone["errors"] == afterwards["errors"] == {}
    assert crowd["errors"].keys() == {"OverloadedError"}
    assert crowd["succeeded"] >= 4
    assert crowd["ttft_ms"]["max"] > alone["ttft_ms"]["min"]
    assert min(figures["ttft_ms"]["min"] for figures in (alone, crowd, afterwards)) >= 20


def test_the_twins_own_count_is_the_reports(twin: TwinServer, tmp_path: Path) -> None:
    """Tokens and requests of a report agree with what the twin's metrics counted meanwhile."""
    idle = {metric_names.REQUESTS_RUNNING: 0.0, metric_names.REQUESTS_WAITING: 0.0}
    before = twin.settled("chat", idle)
    prompts = write_prompts(tmp_path, "time year people", "way day")
    arguments = ["--model", "chat", "--users", 4, "--requests", 20, "--prompts", prompts, "--output-tokens", 9]
    done = run(twin, tmp_path / "out", [*arguments, "--warmup-requests", 0])
    assert done.status == 0, done.stderr
    figures = done.figures()
    assert figures["total_output_tokens"] == 20 * 9
    counted = {
        metric_names.PROMPT_TOKENS: figures["total_input_tokens"],
        metric_names.GENERATION_TOKENS: figures["total_output_tokens"],
        f"{metric_names.END_TO_END_LATENCY}_count": figures["succeeded"],
    }
    twin.settled("chat", idle | {name: before.get(name, 0) + value for name, value in counted.items()})
