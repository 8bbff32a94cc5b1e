"""No block is lost, no token computed over the wrong past, and everyone's turn comes."""

from array import array
from collections import defaultdict
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fathom_server.engine.answer_text import AnswerText
from fathom_server.engine.block_pool import BlockPool
from fathom_server.engine.request import Request
from fathom_server.engine.runner.base import CacheGeometry
from fathom_server.engine.sampler import SequenceSampler
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.scheduler import ScheduledRow, Scheduler
from fathom_server.engine.sequence import Sequence
from fathom_server.text.detokenizer import ByteLevelDetokenizer

MAX_BATCH = 3
BUDGET = 5
BLOCKS = 10
BLOCK_TOKENS = 4
LONGEST = 24


def new_sequences(request: Request) -> list[Sequence]:
    """As the engine makes them, for a vocabulary of eight."""
    return [
        Sequence(
            request=request,
            index=index,
            token_ids=list(request.prompt_ids),
            sampler=SequenceSampler(request.sampling, request.prompt_ids, 8, (), index),
            text=AnswerText(request.sampling, ByteLevelDetokenizer(defaultdict(bytes)), (), request.max_tokens),
        )
        for index in range(request.sampling.sequences)
    ]


def new_request(arrival: int, prompt: list[int], **options: object) -> Request:
    fields = {"sampling": SamplingParameters(), "max_tokens": 8, **options}
    return Request(id=str(arrival), prompt_ids=array("i", prompt), sink=None, arrival=arrival, **fields)  # type: ignore[arg-type]


class SchedulerMachine(RuleBasedStateMachine):
    """Random arrivals and departures around steps over a cache that remembers which tokens it holds."""

    shareable = True

    def __init__(self) -> None:
        super().__init__()
        geometry = (
            CacheGeometry(BLOCKS, BLOCK_TOKENS, shareable=True)
            if self.shareable
            else CacheGeometry(MAX_BATCH, LONGEST + 8, shareable=False)
        )
        self.pool = BlockPool(geometry)
        self.scheduler = Scheduler(self.pool, MAX_BATCH, BUDGET, new_sequences)
        self.cache: list[list[int | None]] = [[None] * geometry.block_tokens for _ in range(geometry.blocks)]
        self.live: list[Request] = []
        self.ended = 0
        self.made = 0

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=LONGEST),
        priority=st.integers(0, 1),
        client=st.sampled_from("ab"),
        answers=st.sampled_from((1, 1, 1, 3)),
    )
    def arrive(self, prompt: list[int], priority: int, client: str, answers: int) -> None:
        self.made += 1
        sampling = SamplingParameters(n=answers, temperature=1.0, seed=self.made)
        request = new_request(self.made, prompt, sampling=sampling, priority=priority, client=client)
        self.scheduler.waiting.push(request)
        self.live.append(request)

    @rule(drafts=st.integers(0, 6), token=st.integers(0, 1), accepted=st.integers(0, 6))
    def step(self, drafts: int, token: int, accepted: int) -> None:
        decoding = self.scheduler.decoding()
        for sequence in decoding:
            room = sequence.request.max_tokens - sequence.generated - 1
            self.scheduler.add_drafts(sequence, [2] * min(room, drafts))
        prefilling = self.scheduler.prefilling()
        assert sum(row.tokens for row in prefilling) <= BUDGET
        rows = [ScheduledRow(one, 1, samples=True) for one in decoding if one in self.scheduler.running]
        rows += prefilling
        assert len({id(row.sequence) for row in rows}) == len(rows)
        if not rows:
            assert not self.live, "somebody waits and nobody runs"
        for row in rows:
            self.compute(row)
        for row in rows:
            if row.samples:
                self.sample(row, token, accepted)
            else:
                self.scheduler.advance(row.sequence, row.tokens)

    def compute(self, row: ScheduledRow) -> None:
        """Write the row's tokens where a runner would, over a past that must be the sequence's own."""
        sequence = row.sequence
        new = sequence.token_ids[sequence.computed : sequence.computed + row.tokens] + sequence.drafts
        for position in range(sequence.computed):
            assert self.cell(sequence, position)[0] == sequence.token_ids[position]
        for position, token in enumerate(new, start=sequence.computed):
            cells, place = self.cells(sequence, position)
            cells[place] = token

    def sample(self, row: ScheduledRow, token: int, accepted: int) -> None:
        """Accept some drafts, draw one token more, end what is complete, line up siblings."""
        sequence = row.sequence
        kept = sequence.drafts[:accepted]
        first = sequence.generated == 0
        sequence.token_ids.extend([*kept, token])
        sequence.drafts = []
        self.scheduler.advance(sequence, row.tokens + len(kept))
        if first and sequence.index == 0:
            for sibling in sequence.request.sequences[1:]:
                self.scheduler.resume(sibling)
        if sequence.generated == sequence.request.max_tokens:
            self.scheduler.remove(sequence)
            if all(one.ended for one in sequence.request.sequences):
                self.live.remove(sequence.request)

    def cells(self, sequence: Sequence, position: int) -> tuple[list[int | None], int]:
        size = self.pool.geometry.block_tokens
        return self.cache[sequence.blocks[position // size]], position % size

    def cell(self, sequence: Sequence, position: int) -> list[int | None]:
        cells, place = self.cells(sequence, position)
        return [cells[place]]

    @precondition(lambda self: self.live)
    @rule(chance=st.integers(0, 1000))
    def leave(self, chance: int) -> None:
        request = self.live.pop(chance % len(self.live))
        self.scheduler.drop_waiting(request)
        for sequence in request.sequences:
            if not sequence.ended:
                self.scheduler.remove(sequence)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.scheduler.running) <= MAX_BATCH
        held = {block for sequence in self.scheduler.running for block in sequence.blocks}
        assert self.pool.held == len(held)
        assert set(self.scheduler.requests()) <= set(self.live)
        for sequence in self.scheduler.resumable:
            assert sequence.blocks == []

    def teardown(self) -> None:
        """Whatever happened, everybody's answer is completed in the end."""
        for _ in range(3000):
            if not self.live:
                break
            self.step(drafts=2, token=1, accepted=1)
        assert not self.live
        assert self.pool.held == 0


class SlotSchedulerMachine(SchedulerMachine):
    """The same over slots."""

    shareable = False


TestPagedScheduler = pytest.mark.timeout(300)(SchedulerMachine.TestCase)
TestPagedScheduler.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSlotScheduler = pytest.mark.timeout(300)(SlotSchedulerMachine.TestCase)
TestSlotScheduler.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


@pytest.fixture
def new_scheduler() -> Callable[..., Scheduler]:
    """Schedulers over caches of the test's choice."""

    def make(blocks: int = BLOCKS, max_batch: int = MAX_BATCH, budget: int = BUDGET) -> Scheduler:
        pool = BlockPool(CacheGeometry(blocks, BLOCK_TOKENS, shareable=True))
        return Scheduler(pool, max_batch, budget, new_sequences)

    return make


def prefill(scheduler: Scheduler) -> list[str]:
    """Compute one step's prompt chunks; returns whose they were."""
    rows = scheduler.prefilling()
    for row in rows:
        scheduler.advance(row.sequence, row.tokens)
        if row.samples:
            row.sequence.token_ids.append(1)
    return [row.sequence.request.id for row in rows]


def test_clients_take_turns(new_scheduler: Callable[..., Scheduler]) -> None:
    """A client with one request is not behind the hundred of another that came before."""
    scheduler = new_scheduler(max_batch=2, budget=100)
    for arrival in range(10):
        scheduler.waiting.push(new_request(arrival, [arrival] * 4, client="crowd"))
    scheduler.waiting.push(new_request(99, [9, 9], client="lone"))
    assert prefill(scheduler) == ["0", "99"]


def test_urgent_requests_go_first_and_take_places(new_scheduler: Callable[..., Scheduler]) -> None:
    """A lower priority number is admitted first, in the place of a less urgent one if there is no other."""
    scheduler = new_scheduler(max_batch=1, budget=100)
    scheduler.waiting.push(new_request(1, [1, 1], priority=5))
    assert prefill(scheduler) == ["1"]
    scheduler.waiting.push(new_request(2, [2, 2], priority=5))
    scheduler.waiting.push(new_request(3, [3, 3], priority=-1))
    assert prefill(scheduler) == ["3"]
    assert scheduler.preemptions == 1
    assert [one.request.id for one in scheduler.resumable] == ["1"]
    scheduler.remove(scheduler.running[0])
    assert prefill(scheduler) == ["1"]


def test_long_prompt_leaves_decoding_ones_their_tokens(new_scheduler: Callable[..., Scheduler]) -> None:
    """While a long prompt is computed in chunks, a decoding sequence is in every step."""
    scheduler = new_scheduler(budget=5)
    scheduler.waiting.push(new_request(1, [1]))
    prefill(scheduler)
    scheduler.waiting.push(new_request(2, [2] * 20))
    for _ in range(4):
        decoding = scheduler.decoding()
        assert [one.request.id for one in decoding] == ["1"]
        assert prefill(scheduler) == ["2"]
        scheduler.advance(decoding[0], 1)
        decoding[0].token_ids.append(1)
    assert len(scheduler.decoding()) == 2


def test_admission_is_by_blocks(new_scheduler: Callable[..., Scheduler]) -> None:
    """A request waits, whatever places are free, until the cache has room for its prompt."""
    scheduler = new_scheduler(blocks=4, budget=100)
    scheduler.waiting.push(new_request(1, [1] * 7))
    scheduler.waiting.push(new_request(2, [2] * 7))
    assert prefill(scheduler) == ["1"]
    assert prefill(scheduler) == []
    scheduler.remove(scheduler.running[0])
    assert prefill(scheduler) == ["2"]


def test_full_cache_preempts_the_last_to_come(new_scheduler: Callable[..., Scheduler]) -> None:
    """When blocks run out, the sequence that came last gives up its own and keeps its tokens for later."""
    scheduler = new_scheduler(blocks=5, budget=100)
    for arrival in (1, 2):
        scheduler.waiting.push(new_request(arrival, [arrival] * 3, max_tokens=30))
    assert prefill(scheduler) == ["1", "2"]
    while scheduler.preemptions == 0:
        for sequence in scheduler.decoding():
            scheduler.advance(sequence, 1)
            sequence.token_ids.append(1)
    assert [one.request.id for one in scheduler.running] == ["1"]
    assert len(scheduler.resumable[0].token_ids) > 4
