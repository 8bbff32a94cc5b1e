"""Which server gets a request, and whether it is tried again: the decisions alone, on a clock of the test's own."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_client import InvalidArgumentError, InvalidRequestError, OverloadedError, Retry, ServerUnavailableError
from fathom_client._attempts import Attempts
from fathom_client._endpoints import EndpointPool

AWAY = ServerUnavailableError("away", code="UNAVAILABLE")
FULL = OverloadedError("the queue is full", code="UNAVAILABLE")


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def unavailable(retry_after_s: float) -> ServerUnavailableError:
    """A failure with a server's advice."""
    error = ServerUnavailableError("busy", code="UNAVAILABLE")
    error.retry_after_s = retry_after_s
    return error


@given(st.integers(1, 5), st.lists(st.integers(0, 9), max_size=60))
def test_the_least_loaded_server_is_chosen(size: int, steps: list[int]) -> None:
    """However requests begin and end, the next goes to a server that has no more than any other, and none is lost."""
    pool = EndpointPool([f"s{index}:1" for index in range(size)])
    running: list = []
    for step in steps:
        if step >= 6 and running:
            pool.release(running.pop(step % len(running)))
            continue
        held = [sum(each is endpoint for each in running) for endpoint in pool.endpoints]
        chosen = pool.acquire()
        assert chosen is not None
        assert held[chosen.index] == min(held)
        running.append(chosen)


def test_equals_take_turns() -> None:
    """Requests that end at once still go round: an idle pool does not send everything to its first server."""
    pool = EndpointPool(["a:1", "b:1", "c:1"])
    chosen = []
    for _ in range(6):
        endpoint = pool.acquire()
        assert endpoint is not None
        chosen.append(endpoint.url)
        pool.release(endpoint)
    assert chosen == ["a:1", "b:1", "c:1"] * 2


def test_failed_server_is_left_out_until_it_says_it_is_ready() -> None:
    """A server that failed gets nothing, is asked ever more seldom, and gets its share again once it is ready."""
    clock = Clock()
    pool = EndpointPool(["a:1", "b:1"], clock)
    a, b = pool.endpoints
    pool.failed(a)
    pool.failed(a)  # of the same moment: one failure
    assert [pool.acquire() for _ in range(3)] == [b, b, b]
    pauses = []
    for _ in range(8):
        begin_s = clock.now_s
        assert pool.due() == []
        while not (due := pool.due()):
            clock.now_s += 0.25
        assert due == [a]
        assert pool.due() == []  # one question at a time
        pauses.append(clock.now_s - begin_s)
        pool.failed(a)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    pool.recovered(a)
    assert pool.acquire() is a


def test_where_none_is_healthy_all_are_tried() -> None:
    """Servers that all failed are still tried: nothing is refused here that might be taken there."""
    pool = EndpointPool(["a:1", "b:1"])
    for endpoint in pool.endpoints:
        pool.failed(endpoint)
    first = pool.acquire()
    assert first is not None
    second = pool.acquire([first])
    assert {first, second} == set(pool.endpoints)
    assert pool.acquire([first, second]) is None


def test_request_passes_over_to_each_server_once() -> None:
    """Without Retry a request is tried on every server once, at once, and then fails."""
    attempts = Attempts(EndpointPool(["a:1", "b:1", "c:1"]), None, None)
    seen = [attempts.endpoint.url]
    while attempts.pause_before_next(AWAY) is not None:
        seen.append(attempts.endpoint.url)
    assert sorted(seen) == ["a:1", "b:1", "c:1"]
    assert attempts.number == 3


def test_full_server_is_not_left_out() -> None:
    """A full queue sends the request on and leaves the server in: it is well."""
    pool = EndpointPool(["a:1", "b:1"])
    attempts = Attempts(pool, None, None)
    assert attempts.pause_before_next(FULL) == 0.0
    assert all(endpoint.is_healthy for endpoint in pool.endpoints)


def test_full_server_is_not_exchanged_for_one_that_is_away() -> None:
    """While another server is left out, the answer of the one that is there stands."""
    pool = EndpointPool(["a:1", "b:1"])
    pool.failed(pool.endpoints[1])
    assert Attempts(pool, None, None).pause_before_next(FULL) is None


@pytest.mark.parametrize(
    "failure", [InvalidRequestError("no", code="INVALID_ARGUMENT"), ServerUnavailableError("no", code="UNIMPLEMENTED")]
)
def test_nothing_else_is_tried_again(failure: Exception) -> None:
    """Only UNAVAILABLE is: another server would refuse the same."""
    attempts = Attempts(EndpointPool(["a:1", "b:1"]), Retry(), None)
    assert attempts.pause_before_next(failure) is None  # type: ignore[arg-type]


@given(st.integers(2, 8), st.floats(0.01, 1), st.floats(1, 10))
def test_rounds_and_pauses_are_bounded(attempts: int, first_s: float, longest_s: float) -> None:
    """There are as many rounds as ``attempts``, and each pause lies between nothing and its doubling bound."""
    retry = Retry(attempts, first_s, longest_s)
    tried = Attempts(EndpointPool(["a:1"]), retry, None)
    pauses = []
    while (pause_s := tried.pause_before_next(AWAY)) is not None:
        pauses.append(pause_s)
    assert len(pauses) == attempts - 1
    assert all(0 <= pause <= min(longest_s, first_s * 2**turn) for turn, pause in enumerate(pauses))


def test_pauses_are_spread() -> None:
    """Callers that failed together do not come back together."""
    retry = Retry(first_pause_s=1.0)
    pauses = [retry.pause_s(2) for _ in range(200)]
    assert min(pauses) < 0.2 < 0.8 < max(pauses)
    assert len(set(pauses)) > 150


def test_no_attempt_begins_past_the_time_limit() -> None:
    """A pause that would reach the request's own limit ends it instead."""
    attempts = Attempts(EndpointPool(["a:1"]), Retry(attempts=10), time.monotonic() + 5)
    assert attempts.pause_before_next(unavailable(4.0)) == 4.0
    assert attempts.pause_before_next(unavailable(6.0)) is None
    late = Attempts(EndpointPool(["a:1", "b:1"]), None, time.monotonic() - 1)
    assert late.pause_before_next(AWAY) is None


def test_servers_advice_replaces_the_pause() -> None:
    """A server says how long to wait, or not to come back; another server may be asked all the same."""
    assert Attempts(EndpointPool(["a:1"]), Retry(), None).pause_before_next(unavailable(7.5)) == 7.5
    assert Attempts(EndpointPool(["a:1"]), Retry(), None).pause_before_next(unavailable(math.inf)) is None
    assert Attempts(EndpointPool(["a:1", "b:1"]), Retry(), None).pause_before_next(unavailable(math.inf)) == 0.0


def test_requests_let_go_of_their_server() -> None:
    """Whatever a request's fate, it counts on one server at a time, and on none once it is released."""
    pool = EndpointPool(["a:1", "b:1"])
    attempts = Attempts(pool, Retry(), None)
    for _ in range(3):
        attempts.pause_before_next(FULL)
    attempts.release()
    attempts.release()
    pool.release(pool.acquire())  # type: ignore[arg-type] # counts who left
    pool.acquire()
    assert sum(endpoint.outstanding for endpoint in pool.endpoints) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attempts": 1}, "retry.attempts is 1; it must be between 2 and 100"),
        ({"first_pause_s": 0}, "retry.first_pause_s is 0"),
        ({"longest_pause_s": math.inf}, "retry.longest_pause_s is inf"),
        ({"first_pause_s": 9.0}, r"retry.longest_pause_s is 5, below retry.first_pause_s \(9\)"),
    ],
)
def test_retry_that_makes_no_sense_is_refused(arguments: dict, message: str) -> None:
    """Each value has its range, named with what was given."""
    with pytest.raises(InvalidArgumentError, match=message):
        Retry(**arguments)
