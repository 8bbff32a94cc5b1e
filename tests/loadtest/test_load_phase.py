"""A phase hands each item to exactly one user, of one process, and ends for all of them."""

from dataclasses import replace

import gevent
import pytest

from fathom_loadtest.content.prompt import Prompt
from fathom_loadtest.load.plan import Stage
from fathom_loadtest.phase import Phase
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.scenario import Arrivals, ClosedLoop, Conversation, Fixed, Scenario, Target, TaskSpec
from fathom_loadtest.workload import WHOLE, Item, Share, Workload

CLOSED = Stage(0, 2, None, None, 10)
OPEN = Stage(0, 2, 2000.0, None, 10, arrivals=Arrivals())


class Numbers:
    """Prompts that say their number; the one after ``last`` is a fault."""

    def __init__(self, last: int) -> None:
        self.last = last

    def prompt(self, phase: str, index: int, turn: int = 0) -> Prompt:
        """Say it."""
        if index > self.last:
            raise LookupError(f"no prompt {index}")
        return Prompt(f"{phase} {index} {turn}")

    def turns(self, phase: str, index: int) -> int:
        """Always two."""
        return 2


def make(stage: Stage, share: Share = WHOLE, users: int = 2, last: int = 1 << 40) -> Phase:
    """A phase that is open."""
    talk = Conversation(Fixed(2), think_time_s=0.01)
    tasks = (
        TaskSpec("a", "chat", name="a", weight=3, input_tokens=Fixed(5), conversation=talk),
        TaskSpec("b", "embed", name="b", input_tokens=Fixed(5)),
    )
    scenario = Scenario(Target(), ClosedLoop((1,), requests=1), tasks, seed=4)
    workload = Workload(scenario, {"a": Numbers(last), "b": Numbers(last)})
    phase = Phase("stage 1", stage, workload, Recorder(), users, share)
    phase.open()
    return phase


def taken(phase: Phase) -> list[Item]:
    """Everything that the phase gives to its users, who all come to an end."""
    items: list[Item] = []

    def user() -> None:
        while (item := phase.take()) is not None:
            items.append(item)
            gevent.sleep(0)
            phase.done()

    users = [gevent.spawn(user) for _ in range(phase.users)]
    gevent.joinall(users, timeout=10, raise_error=True)
    assert all(each.ready() for each in users)
    return items


@pytest.mark.parametrize("stage", [CLOSED, OPEN], ids=["closed", "open"])
@pytest.mark.parametrize("of", [1, 2, 3, 16])
def test_processes_share_the_items_without_overlap(stage: Stage, of: int) -> None:
    """However many processes there are, together they send the very items that one alone would."""
    alone = {item.index: item for item in taken(make(stage))}
    parts = [taken(make(stage, Share(place, of))) for place in range(of)]
    together = [item for part in parts for item in part]
    assert sorted(item.index for item in together) == list(range(10)) == sorted(alone)
    for item in together:
        assert (item.task, item.first, item.turns) == (
            alone[item.index].task, alone[item.index].first, alone[item.index].turns,
        )  # fmt: skip


@pytest.mark.parametrize("share", [WHOLE, Share(1, 3)], ids=["whole", "part"])
def test_a_closed_loop_composes_in_its_spare_time_the_items_that_come_next(share: Share) -> None:
    """Who takes an item after a pause finds it made, the one that would come anyway; none is made too many."""
    hurried = taken(make(CLOSED, share))
    phase, unhurried = make(CLOSED, share, last=9), []
    while (item := phase.take()) is not None:
        unhurried.append(item)
        while len(phase.spare_time):
            gevent.sleep(0.001)
        phase.done()
    assert [(each.index, each.task, each.first) for each in unhurried] == [
        (each.index, each.task, each.first) for each in sorted(hurried, key=lambda each: each.index)
    ]
    assert phase.spare_time.failure is None


def test_an_open_loops_items_are_due_at_the_same_times_in_every_share() -> None:
    """Distances between due times are those of the whole loop, counted from each process's own beginning."""
    phase = make(OPEN)
    alone = {item.index: (item.due_ns or 0) - (phase.opened_ns or 0) for item in taken(phase)}
    for place in range(2):
        part = make(OPEN, Share(place, 2))
        for item in taken(part):
            assert (item.due_ns or 0) - (part.opened_ns or 0) == alone[item.index]


def test_who_finds_no_free_user_is_late() -> None:
    """Of ten requests at once two find a user, eight are late and are still sent."""
    phase = make(replace(OPEN, arrivals=Arrivals("constant", burst_size=10)))
    assert len(taken(phase)) == 10
    assert phase.late == 8


@pytest.mark.parametrize("stage", [replace(CLOSED, requests=None), replace(OPEN, requests=None, rate=5.0)])
def test_a_closed_phase_lets_nobody_wait(stage: Stage) -> None:
    """Users who wait for a request that will not come any more are told so."""
    phase = make(stage, users=3)
    gevent.spawn_later(0.05, phase.close)
    taken(phase)
    assert phase.take() is None
    assert not phase.may_start()


@pytest.mark.parametrize("stage", [CLOSED, OPEN], ids=["closed", "open"])
def test_a_phase_ends_with_its_duration(stage: Stage) -> None:
    """No item is due after the duration, and none starts."""
    phase = make(replace(stage, requests=None, duration_s=0.1))
    items = taken(phase)
    assert items
    assert phase.elapsed_s() >= 0.1 or stage is OPEN
    due = [item.due_ns - (phase.opened_ns or 0) for item in items if item.due_ns is not None]
    assert all(at < 100_000_000 for at in due)


def test_a_fault_in_the_loop_of_an_open_phase_is_told() -> None:
    """What a prompt source raises ends the phase for its users and is kept for whoever runs it."""
    phase = make(OPEN, last=3)
    assert len(taken(phase)) == 4
    assert isinstance(phase.crash, LookupError)


def test_a_mix_keeps_its_weights_and_its_seed() -> None:
    """Three quarters of the items are the first task's; whether callers leave and think follows from the seed."""
    workload = make(CLOSED).workload
    items = [workload.item("stage 1", index) for index in range(800)]
    assert 550 < sum(item.task.name == "a" for item in items) < 650
    assert [item.prompt(1).text for item in items[:2]] == ["stage 1 0 1", "stage 1 1 1"]
    talk = next(item for item in items if item.task.conversation is not None)
    assert workload.think_time_s(talk, 1) == workload.think_time_s(talk, 1) > 0
    assert workload.think_time_s(talk, 1) != workload.think_time_s(talk, 2)
    assert not any(workload.cancels(item, 0) for item in items)
