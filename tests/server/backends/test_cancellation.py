"""Who is asked whether the caller has left: those that run in every round, of a long queue a few at a time."""

import threading
import time
from typing import Any, cast

from fathom_server.backends.fathom.cancellation import CancellationWatch, WatchedRequest
from fathom_server.engine.engine import Engine
from fathom_server.engine.request import Request

PATIENCE_S = 30


class Caller:
    """A transport whose caller may leave; it counts how often it was asked."""

    def __init__(self) -> None:
        self.questions = 0
        self.left = False

    def is_cancelled(self) -> bool:
        self.questions += 1
        return self.left


class Cancelled:
    """An engine that remembers which requests were cancelled."""

    def __init__(self) -> None:
        self.requests: set[Request] = set()

    def cancel(self, request: Request) -> None:
        request.cancelled = True
        self.requests.add(request)


def watched(caller: Caller, *, runs: bool) -> WatchedRequest:
    """A request of a caller, admitted or not."""
    one = WatchedRequest(cast("Any", caller))
    one.request = Request("one", cast("Any", []), cast("Any", None), 1, cast("Any", None))
    one.request.admitted = time.monotonic() if runs else None
    return one


def until(condition: Any) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def test_those_that_wait_are_asked_in_turn() -> None:
    """Every caller in a long queue is asked, who runs is asked many times meanwhile, and each who left is told."""
    engine = Cancelled()
    watch = CancellationWatch(cast("Engine", engine), on_tick=lambda: None)
    running, waiting = [Caller() for _ in range(4)], [Caller() for _ in range(200)]
    requests = {caller: watched(caller, runs=caller in running) for caller in (*waiting, *running)}
    for one in requests.values():
        watch.add(one)
    until(lambda: all(caller.questions for caller in waiting))
    assert min(caller.questions for caller in running) >= 5 * min(caller.questions for caller in waiting)
    for caller in (running[2], waiting[150]):
        caller.left = True
    until(lambda: len(engine.requests) == 2)
    watch.close()
    assert engine.requests == {requests[running[2]].request, requests[waiting[150]].request}
