"""Who runs in the next step: admission by KV blocks, prompts in chunks, priorities, fairness, preemption.

Every running sequence that decodes is in every step; prompts share a budget of tokens a step, so that nobody's next
token waits for longer than that. A sequence is admitted when blocks for all its tokens are free. Where the cache runs
full, the sequence of the lowest rank gives up its blocks and computes its tokens again later.
"""

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from fathom_server.engine.block_pool import BlockPool
from fathom_server.engine.request import Request
from fathom_server.engine.sequence import Sequence
from fathom_server.engine.waiting_queue import WaitingQueue

PROMPT_LOGPROBS_CHUNK: Final = 64
"""A chunk whose every token gets logits: 12 MiB of them at a vocabulary of 49,152."""


@dataclass(frozen=True, slots=True)
class ScheduledRow:
    """The next ``tokens`` tokens of a sequence, its drafts not among them; ``samples`` where they are its last."""

    sequence: Sequence
    tokens: int
    samples: bool


class Scheduler:
    """Owned by the engine's thread. ``max_batch`` sequences run; a step computes ``prefill_chunk`` prompt tokens.

    ``new_sequences`` makes a request's sequences when its turn has come; the first is started, the others are lined up
    by whoever sees its prompt computed.
    """

    def __init__(
        self, pool: BlockPool, max_batch: int, prefill_chunk: int, new_sequences: Callable[[Request], list[Sequence]]
    ) -> None:
        self.pool = pool
        self._new_sequences = new_sequences
        self._max_batch = max_batch
        self._prefill_chunk = prefill_chunk
        self.waiting = WaitingQueue()
        self.resumable: list[Sequence] = []  # preempted ones, and siblings of one whose prompt is computed
        self.running: list[Sequence] = []
        self.preemptions = 0

    def requests(self) -> Iterator[Request]:
        """Every request that has not ended."""
        yield from dict.fromkeys(sequence.request for sequence in (*self.running, *self.resumable))
        yield from self.waiting

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        return bool(self.running or self.resumable or len(self.waiting))

    def decoding(self) -> list[Sequence]:
        """Sequences that get a token in the next step, each with a block for it; some may be preempted for that."""
        for sequence in sorted((one for one in self.running if one.is_decoding), key=lambda one: one.rank):
            if sequence in self.running:  # not preempted for one before it
                self._make_room(sequence)
        return [sequence for sequence in self.running if sequence.is_decoding]

    def add_drafts(self, sequence: Sequence, drafts: list[int]) -> None:
        """Have tokens tried in the next step, as many as blocks are free for; nobody is preempted for a guess."""
        held = len(sequence.blocks) * self.pool.geometry.block_tokens
        free = self.pool.available * self.pool.geometry.block_tokens if self.pool.geometry.shareable else 0
        sequence.drafts = drafts[: max(0, held + free - sequence.computed - 1)]
        self._grow(sequence, sequence.computed + 1 + len(sequence.drafts))

    def prefilling(self) -> list[ScheduledRow]:
        """Prompt chunks of the next step, from running and newly admitted sequences, within the budget."""
        budget = self._prefill_chunk
        rows = []
        for sequence in sorted((one for one in self.running if not one.is_decoding), key=lambda one: one.rank):
            if budget:
                rows.append(self._chunk(sequence, budget))
                budget -= rows[-1].tokens
        while budget and (admitted := self._admit()) is not None:
            rows.append(self._chunk(admitted, budget))
            budget -= rows[-1].tokens
        running = set(map(id, self.running))  # an admission may have preempted one that was to compute a chunk
        return [row for row in rows if id(row.sequence) in running]

    def resume(self, sequence: Sequence) -> None:
        """Line up a sequence that holds no blocks."""
        insort(self.resumable, sequence, key=lambda one: one.rank)

    def drop_waiting(self, request: Request) -> None:
        """Take a request out that waits for its turn; nothing happens to one that does not."""
        if request in self.waiting:
            self.waiting.remove(request)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.resumable:
            self.resumable.remove(sequence)
        self._free(sequence)
        sequence.ended = True

    def advance(self, sequence: Sequence, tokens: int) -> None:
        """Count tokens whose keys and values now stand in the cache, and let others share the blocks they filled."""
        sequence.computed += tokens
        size = self.pool.geometry.block_tokens
        if not self.pool.geometry.shareable:
            return
        while (sequence.kept + 1) * size <= sequence.computed:
            begin = sequence.kept * size
            content = tuple(sequence.token_ids[begin : begin + size])
            sequence.node = self.pool.keep(sequence.blocks[sequence.kept], sequence.node, content)
            sequence.kept += 1

    def _chunk(self, sequence: Sequence, budget: int) -> ScheduledRow:
        tokens = min(budget, sequence.remaining)
        if sequence.wants_prompt_choices:
            tokens = min(tokens, PROMPT_LOGPROBS_CHUNK)
        return ScheduledRow(sequence, tokens, samples=tokens == sequence.remaining)

    def _admit(self) -> Sequence | None:
        """Start the sequence whose turn it is, if there is room for it."""
        candidate = self._next_candidate()
        if candidate is None:
            return None
        while not self._fits(candidate):
            if not self._preempt_for(candidate.request.priority):
                return None
        if candidate in self.resumable:
            self.resumable.remove(candidate)
        else:
            self.waiting.remove(candidate.request)
            self.waiting.charge(candidate.request.client, len(candidate.token_ids) + candidate.request.max_tokens)
        self._start(candidate)
        return candidate

    def _next_candidate(self) -> Sequence | None:
        request = self.waiting.first()
        resumable = self.resumable[0] if self.resumable else None
        if request is None or (resumable is not None and resumable.request.priority <= request.priority):
            return resumable
        if not request.sequences:
            request.sequences = self._new_sequences(request)
        return request.sequences[0]

    def _fits(self, candidate: Sequence) -> bool:
        if len(self.running) >= self._max_batch:
            return False
        tokens = len(candidate.token_ids) + 1
        needed = self.pool.blocks_for(tokens)
        if not self.pool.geometry.shareable:
            return needed <= self.pool.available
        if needed + len(self.running) <= self.pool.available:  # a block more for each that runs
            return True
        shared = self.pool.share(candidate.token_ids, candidate.root)
        fits = needed - len(shared.blocks) + len(self.running) <= self.pool.available
        self.pool.release(shared.blocks)
        return fits or (not self.running and needed <= self.pool.available)

    def change_lane(self, sequence: Sequence, lane: int) -> None:
        """Have a running sequence that has no answer yet computed by other weights, from its first token on."""
        sequence.lane = lane
        self._free(sequence)
        self._begin(sequence)

    def _start(self, sequence: Sequence) -> None:
        self._begin(sequence)
        self.running.append(sequence)

    def _begin(self, sequence: Sequence) -> None:
        if not sequence.wants_prompt_choices:
            shared = self.pool.share(sequence.token_ids, sequence.root)
            sequence.blocks, sequence.node = shared.blocks, shared.node
            sequence.kept = len(shared.blocks)
            sequence.computed = sequence.kept * self.pool.geometry.block_tokens if shared.blocks else 0
            if len(sequence.token_ids) == sequence.prompt_tokens:
                sequence.cached = sequence.computed
        self._grow(sequence, len(sequence.token_ids) + 1)

    def _make_room(self, sequence: Sequence) -> None:
        """A block for the next token, taken from those of lower rank if need be; the lowest of all is preempted."""
        while not self._grow(sequence, sequence.computed + 1):
            victim = max(self.running, key=lambda one: one.rank)
            self._preempt(victim)
            if victim is sequence:
                return

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        missing = self.pool.blocks_for(tokens) - len(sequence.blocks)
        if missing <= 0:
            return True
        blocks = self.pool.take(missing)
        if blocks is None:
            return False
        sequence.blocks.extend(blocks)
        return True

    def _preempt_for(self, priority: int) -> bool:
        """Preempt the lowest of those that run, if it is less urgent than ``priority``."""
        victim = max(self.running, key=lambda one: one.rank, default=None)
        if victim is None or victim.request.priority <= priority:
            return False
        self._preempt(victim)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self._free(sequence)
        self.resume(sequence)

    def _free(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.drafts = []
        sequence.computed = sequence.kept = 0
        sequence.node = sequence.root
