"""Slots stay side by side, nobody is lost, and every move keeps the right tokens."""

import time

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fathom_server.engine.request import Request, RequestState, SamplingParameters
from fathom_server.engine.scheduler import Scheduler
from fathom_server.text.detokenizer import ByteLevelDetokenizer

MAX_BATCH = 4
BUDGET = 5


class SchedulerMachine(RuleBasedStateMachine):
    """Random arrivals, prefill chunks, decode steps and departures, on a cache that remembers whose tokens it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(MAX_BATCH)
        self.live: list[Request] = []
        self.cache: list[list[tuple[str, int]]] = [[] for _ in range(MAX_BATCH)]
        self.made = 0

    @rule(prompt_tokens=st.integers(1, 12))
    def arrive(self, prompt_tokens: int) -> None:
        self.made += 1
        request = Request(
            id=str(self.made),
            prompt_ids=list(range(prompt_tokens)),
            sampling=SamplingParameters(),
            max_tokens=8,
            deadline=time.monotonic() + 60,
            sink=None,  # type: ignore[arg-type]  # the scheduler never answers
            detokenizer=ByteLevelDetokenizer([]),
        )
        self.scheduler.waiting.append(request)
        self.live.append(request)

    @rule()
    def prefill(self) -> None:
        chunk = self.scheduler.next_chunk(BUDGET)
        if chunk is None:
            assert not self.scheduler.waiting or len(self.scheduler.decoding) == MAX_BATCH
            return
        request = chunk.request
        assert 1 <= chunk.tokens <= BUDGET
        if request.computed_tokens == 0:
            self.cache[chunk.slot] = []
        for _ in range(chunk.tokens):
            self.cache[chunk.slot].append((request.id, request.computed_tokens))
            request.computed_tokens += 1
        if not request.remaining_prompt_tokens:
            self.scheduler.begin_decoding(request)

    @rule()
    def decode(self) -> None:
        for slot, request in enumerate(self.scheduler.decoding):
            self.cache[slot].append((request.id, request.computed_tokens))
            request.computed_tokens += 1

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.live))
        self.live.remove(request)
        for move in self.scheduler.remove(request):
            self.cache[move.destination] = self.cache[move.source][: move.length]

    @invariant()
    def everyone_stands_in_one_place(self) -> None:
        assert sorted(request.id for request in self.scheduler) == sorted(request.id for request in self.live)

    @invariant()
    def slots_hold_their_own_tokens(self) -> None:
        holders = [*self.scheduler.decoding]
        if self.scheduler.prefilling is not None:
            holders.append(self.scheduler.prefilling)
        assert len(holders) == self.scheduler.running_count <= MAX_BATCH
        for slot, request in enumerate(holders):
            held = self.cache[slot][: request.computed_tokens] if request.computed_tokens else []
            assert held == [(request.id, position) for position in range(request.computed_tokens)]

    @invariant()
    def states_tell_the_place(self) -> None:
        assert all(request.state is RequestState.DECODING for request in self.scheduler.decoding)
        assert all(request.state is RequestState.WAITING for request in self.scheduler.waiting)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_first_come_first_served() -> None:
    """Requests get slots in the order in which they came."""
    machine = SchedulerMachine()
    for _ in range(3):
        machine.arrive(2)
    chunk = machine.scheduler.next_chunk(BUDGET)
    assert chunk is not None
    assert chunk.request.id == "1"
    assert machine.scheduler.next_chunk(0) is None
