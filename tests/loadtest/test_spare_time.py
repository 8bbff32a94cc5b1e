"""What can wait is done in its order while the event loop is idle, and is never lost."""

from functools import partial

import gevent

from fathom_loadtest.spare_time import MOST_WAITING, SpareTime


def wait_for(spare_time: SpareTime) -> None:
    """Let the event loop be idle until nothing waits."""
    while len(spare_time):
        gevent.sleep(0.001)


def test_work_waits_for_everything_that_is_ready_to_run() -> None:
    """A greenlet that has something to do, however often, comes before what can wait; that is done in its order."""
    spare_time, done = SpareTime(), []

    def user() -> None:
        for turn in range(3):
            spare_time.do(partial(done.append, f"work {turn}"))
            gevent.sleep(0)
            done.append(f"turn {turn}")

    gevent.spawn(user).join()
    wait_for(spare_time)
    assert done == ["turn 0", "turn 1", "turn 2", "work 0", "work 1", "work 2"]


def test_it_begins_anew_when_there_was_nothing_to_do() -> None:
    """Work that comes after a pause is done like the first."""
    spare_time, done = SpareTime(), []
    for number in range(3):
        spare_time.do(partial(done.append, number))
        wait_for(spare_time)
        assert done == list(range(number + 1))


def test_a_loop_that_is_never_idle_does_the_oldest_work_itself() -> None:
    """No more than MOST_WAITING pieces wait, so a busy run takes bounded memory."""
    spare_time, done = SpareTime(), []
    for number in range(MOST_WAITING + 5):
        spare_time.do(partial(done.append, number))
    assert done == list(range(5))
    assert len(spare_time) == MOST_WAITING
    spare_time.finish()
    assert done == list(range(MOST_WAITING + 5))
    assert len(spare_time) == 0


def test_what_work_raises_is_kept() -> None:
    """The first failure is there for whoever asks, and the work after it is done all the same."""
    spare_time, done = SpareTime(), []

    def fail(message: str) -> None:
        raise OSError(message)

    spare_time.do(partial(fail, "the disk is full"))
    spare_time.do(partial(done.append, "after it"))
    spare_time.do(partial(fail, "the disk is still full"))
    wait_for(spare_time)
    spare_time.do(partial(done.append, "later"))
    spare_time.finish()
    assert done == ["after it", "later"]
    assert isinstance(spare_time.failure, OSError)
    assert str(spare_time.failure) == "the disk is full"
