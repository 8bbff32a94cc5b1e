"""What stands between callers' threads and the engine's: the inbox, and the deadlines of what came through it."""

import threading
from array import array

import pytest
from tests.server.engine.conftest import Answer

from fathom_server.engine.deadlines import Deadlines
from fathom_server.engine.inbox import Inbox
from fathom_server.engine.request import NO_DEADLINE, Request
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.errors import QueueFullError, ShuttingDownError


def request(name: str, deadline: float = NO_DEADLINE, queue_deadline: float = NO_DEADLINE) -> Request:
    sampling = SamplingParameters(max_tokens=1)
    return Request(name, array("i", [1]), sampling, 1, Answer(), deadline, queue_deadline)


def test_requests_are_numbered_and_taken_once() -> None:
    """Whoever takes gets all that came since the last time, in order, and nothing twice."""
    inbox = Inbox(max_batch=2, max_queue=2)
    first, second = request("first"), request("second")
    inbox.put(first)
    inbox.put(second)
    inbox.cancel(first)
    assert inbox.take(waits=True) == ([first, second], [first])
    assert (first.arrival, second.arrival) == (1, 2)
    assert (first.cancelled, second.cancelled) == (True, False)
    assert inbox.take(waits=False) == ([], [])


def test_one_too_many_is_refused_until_one_leaves() -> None:
    """As many are under way as run and wait, taken or not; the end of one makes room for another."""
    inbox = Inbox(max_batch=1, max_queue=1)
    inbox.put(request("runs"))
    inbox.take(waits=False)
    inbox.put(request("waits"))
    late = request("late")
    with pytest.raises(QueueFullError, match="1 requests run, 1 wait"):
        inbox.put(late)
    assert (inbox.under_way, late.arrival) == (2, 0)
    inbox.leave()
    inbox.put(late)
    assert (inbox.under_way, late.arrival) == (2, 3)


@pytest.mark.timeout(60)
def test_who_waits_is_woken_by_a_request_and_by_the_end() -> None:
    """A thread that waits for news goes on with the first of them, and for good once the inbox is closed."""
    inbox = Inbox(max_batch=1, max_queue=1)
    seen: list[str] = []

    def read() -> None:
        while (news := inbox.take(waits=True)) is not None:
            seen.extend(one.id for one in news[0])

    reader = threading.Thread(target=read)
    reader.start()
    inbox.put(request("here"))
    while not seen:
        reader.join(0.01)
    inbox.close()
    reader.join()
    assert seen == ["here"]


def test_a_closed_inbox_takes_nothing_and_keeps_what_nobody_took() -> None:
    """What came too late is refused, and what was not taken in time is still there to be told so."""
    inbox = Inbox(max_batch=1, max_queue=1)
    left = request("left")
    inbox.put(left)
    inbox.close()
    with pytest.raises(ShuttingDownError, match="send the request to another"):
        inbox.put(request("late"))
    assert inbox.take(waits=False) is None
    assert inbox.left_over() == [left]


def test_deadlines_pass_in_their_order() -> None:
    """Each of a request's two deadlines is told once it has passed, the earliest first, and no endless one ever."""
    deadlines = Deadlines()
    patient, hurried, endless = request("patient", 9.0), request("hurried", 5.0, 2.0), request("endless")
    for one in (patient, hurried, endless):
        deadlines.add(one)
    assert list(deadlines.passed(1.0)) == []
    assert list(deadlines.passed(2.0)) == [hurried]
    assert list(deadlines.passed(100.0)) == [hurried, patient]
    assert list(deadlines.passed(float("inf"))) == []
