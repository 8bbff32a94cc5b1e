"""Limits of each key: requests and tokens a minute, and so many requests at once."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway_process import Answer, GatewayProcess

from fathom_server.gateway.edge.limits import KeyUsage, TokenBucket, duration
from fathom_server.gateway.settings import GatewaySettings

ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789"
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"alice:{ALICE}\nbob:{BOB}\n")
    return str(path)


def embed(gateway: GatewayProcess, text: str | list[str], key: str | None = None) -> Answer:
    return gateway.ask("POST", "/v1/embeddings", {"model": "minilm", "input": text}, key=key)


@given(
    per_minute=st.integers(1, 10_000),
    gaps_s=st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=200),
)
def test_a_bucket_never_gives_more_than_a_burst_and_its_rate(per_minute: int, gaps_s: list[float]) -> None:
    """However requests come, in any time no more are let in than a minute's worth and what flowed in meanwhile."""
    now_s, admitted = 0.0, 0
    bucket = TokenBucket(per_minute, now_s)
    for gap_s in gaps_s:
        now_s += gap_s
        if bucket.wait_s(1, now_s) == 0:
            bucket.take(1, now_s)
            admitted += 1
        assert admitted <= per_minute + now_s * per_minute / 60 + 1e-6


@given(per_minute=st.integers(1, 10_000), taken=st.integers(0, 30_000))
def test_whoever_waits_as_told_is_let_in(per_minute: int, taken: int) -> None:
    """The time that is given to a caller is enough, also where more was used than there was."""
    bucket = TokenBucket(per_minute, 0.0)
    bucket.take(taken, 0.0)
    wait_s = bucket.wait_s(1, 0.0)
    assert bucket.wait_s(1, wait_s + 1e-6) == 0
    assert bucket.wait_s(per_minute, taken * 60 / per_minute + 1e-6) == 0


@pytest.mark.parametrize(
    ("seconds", "spelt"), [(0, "0ms"), (0.0201, "21ms"), (1, "1s"), (1.45, "1.5s"), (59.99, "1m0s"), (360, "6m0s")]
)
def test_times_are_spelt_as_openai_spells_them(seconds: float, spelt: str) -> None:
    """Milliseconds below a second, then seconds, then minutes and seconds; rounded up."""
    assert duration(seconds) == spelt


def test_a_refused_request_costs_nothing() -> None:
    """Who asks too fast is not set back by asking."""
    now = [0.0]
    usage = KeyUsage(GatewaySettings(requests_per_minute=60, max_concurrent_requests=100), clock=lambda: now[0])
    for _ in range(60):
        assert usage.begin() is None
    for _ in range(1000):
        refusal = usage.begin()
        assert refusal is not None
        assert refusal.reason == "requests_per_minute"
    assert usage.running == 60
    now[0] += 1.0
    assert usage.begin() is None


def test_requests_a_minute_are_each_keys_own(start_gateway: Callable[..., GatewayProcess], key_file: str) -> None:
    """The request over the limit is told when to come again, in HTTP's and OpenAI's headers; another key is served."""
    gateway = start_gateway(keys=key_file, requests_per_minute=3)
    answers = [embed(gateway, "a", ALICE) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
    last = answers[-1]
    assert last.headers["x-ratelimit-limit-requests"] == "3"
    assert last.headers["x-ratelimit-reset-requests"]
    assert 1 <= int(last.headers["retry-after"]) <= 20
    assert last.error["type"] == "rate_limit_error"
    assert last.error["code"] == "rate_limit_exceeded"
    assert embed(gateway, "a", BOB).status == 200
    assert gateway.ask("GET", "/metrics", key=ALICE).status == 200
    name = "fathom_gateway_rejected_total"
    assert gateway.metric(name, key=BOB, reason="requests_per_minute") == 1


def test_tokens_a_minute_count_what_was_read(start_gateway: Callable[..., GatewayProcess], key_file: str) -> None:
    """The request that overdraws is served, since its tokens are not known before; the next one waits."""
    gateway = start_gateway(keys=key_file, tokens_per_minute=100)
    first = embed(gateway, "x" * 60, ALICE)
    assert (first.status, first.headers["x-ratelimit-remaining-tokens"]) == (200, "100")
    assert embed(gateway, "x" * 60, ALICE).status == 200
    third = embed(gateway, "x", ALICE)
    assert third.status == 429
    assert third.headers["x-ratelimit-limit-tokens"] == "100"
    assert third.headers["x-ratelimit-remaining-tokens"] == "0"
    assert "100 tokens a minute" in third.error["message"]
    assert embed(gateway, "x", BOB).status == 200


def test_so_many_requests_at_once(start_gateway: Callable[..., GatewayProcess], key_file: str) -> None:
    """One more than may run is refused while they run, and served when they have ended; other keys go on."""
    gateway = start_gateway(keys=key_file, max_concurrent_requests=2)
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(embed, gateway, ["slow"] * 3, ALICE) for _ in range(2)]
        deadline = time.monotonic() + PATIENCE_S
        while gateway.metric("fathom_gateway_requests_in_flight", key=BOB, route="/v1/embeddings") < 2:
            assert time.monotonic() < deadline
        refused = embed(gateway, "a", ALICE)
        assert refused.status == 429
        assert refused.error["code"] == "rate_limit_exceeded"
        assert refused.headers["retry-after"] == "1"
        assert embed(gateway, "a", BOB).status == 200
        assert [answer.result().status for answer in slow] == [200, 200]
    assert embed(gateway, "a", ALICE).status == 200
    assert gateway.metric("fathom_gateway_requests_in_flight", key=BOB, route="/v1/embeddings") == 0


def test_without_keys_everybody_shares_one_limit(start_gateway: Callable[..., GatewayProcess]) -> None:
    """Callers that cannot be told apart are counted together, from however many connections."""
    gateway = start_gateway(requests_per_minute=5)
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(embed(gateway, "a").status)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 5 + [429] * 3
