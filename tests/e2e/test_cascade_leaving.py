"""Requests under way in a cascade: who leaves, who is late, who is one too many, and what is counted of them."""

import time

import pytest
from tests.e2e.cascade_deployment import EASY, HARD, LONG, ask, metrics, told, wait_until_running
from tests.serving import FathomServe

from fathom_client import Client, DeadlineExceededError, OverloadedError


@pytest.mark.timeout(60)
@pytest.mark.parametrize("asked", ["small", "large"])
def test_caller_who_leaves_frees_the_model_behind(
    cascade_server: FathomServe, cascade_client: Client, asked: str
) -> None:
    """A closed stream cancels the request in the model that answers it."""
    model = "lonely" if asked == "small" else "chat"
    stream = cascade_client.stream_chat(model, ask(HARD), **LONG)
    wait_until_running(cascade_server, {model: 1, asked: 1})
    stream.close()
    wait_until_running(cascade_server, {model: 0, "small": 0, "large": 0})


@pytest.mark.timeout(60)
def test_deadline_passes_through(cascade_server: FathomServe, cascade_client: Client) -> None:
    """A late answer ends as such for the caller, and in the model behind."""
    with pytest.raises(DeadlineExceededError):
        cascade_client.chat("chat", ask(HARD), timeout_s=0.3, **LONG)
    wait_until_running(cascade_server, {"chat": 0, "small": 0, "large": 0})


@pytest.mark.timeout(60)
def test_more_requests_than_the_limit_are_refused_at_once(cascade_server: FathomServe, cascade_client: Client) -> None:
    """Beyond max_requests a caller is told to try again, and the others go on."""
    streams = [cascade_client.stream_chat("lonely", ask(EASY), **LONG) for _ in range(2)]
    wait_until_running(cascade_server, {"lonely": 2})
    with pytest.raises(OverloadedError, match="max_requests"):
        cascade_client.chat("lonely", ask(EASY), max_tokens=1)
    for stream in streams:
        stream.close()
    wait_until_running(cascade_server, {"lonely": 0, "small": 0})


def test_costs_and_reasons_are_in_the_metrics(cascade_server: FathomServe, cascade_client: Client) -> None:
    """Triton's metrics port counts answers by model and reason, and both models' tokens, as the responses told them."""

    def read() -> dict[str, float]:
        wait_until_running(cascade_server, {"chat": 0})
        return metrics(cascade_server)

    before = read()
    answers = [cascade_client.chat("chat", ask(prompt), max_tokens=32) for prompt in (EASY, HARD, EASY)]
    details = [told(answer) for answer in answers]
    expected = {
        "fathom_cascade_answers_total{model=chat,reason=trusted,role=small}": 2,
        "fathom_cascade_answers_total{model=chat,reason=doubted,role=large}": 1,
        **{
            f"fathom_cascade_tokens_total{{kind={kind},model=chat,role={role}}}": sum(
                each[role][f"{kind}_tokens"] for each in details
            )
            for role in ("small", "large")
            for kind in ("input", "output")
        },
        "fathom_cascade_held_seconds_count{model=chat}": 3,
    }
    while True:
        after = read()
        if all(after[name] - before.get(name, 0.0) == pytest.approx(count) for name, count in expected.items()):
            break
        time.sleep(0.05)
