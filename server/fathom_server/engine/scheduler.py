"""Who runs in the next step, and in which slot.

Decoding requests hold the slots 0 … n - 1, so that a decode step is one tensor; the request whose prompt is being
computed holds slot n. When one leaves, the last takes its place and the cache is moved accordingly.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from fathom_server.engine.request import Request, RequestState


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """The next ``tokens`` tokens of a request's prompt, to be computed in ``slot``."""

    request: Request
    slot: int
    tokens: int


@dataclass(frozen=True, slots=True)
class SlotMove:
    """``length`` tokens of the cache that must move because a request now holds another slot."""

    source: int
    destination: int
    length: int


class Scheduler:
    """First come, first served, into ``max_batch`` slots."""

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self.waiting: deque[Request] = deque()
        self.prefilling: Request | None = None
        self.decoding: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        """Every request that has not ended."""
        yield from self.decoding
        if self.prefilling is not None:
            yield self.prefilling
        yield from self.waiting

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        return bool(self.decoding or self.prefilling or self.waiting)

    @property
    def running_count(self) -> int:
        """Requests that hold a slot."""
        return len(self.decoding) + (self.prefilling is not None)

    def next_chunk(self, budget_tokens: int) -> PrefillChunk | None:
        """The next piece of a prompt within a budget of tokens, admitting a waiting request where a slot is free."""
        if budget_tokens < 1:
            return None
        if self.prefilling is None:
            if not self.waiting or len(self.decoding) == self._max_batch:
                return None
            self.prefilling = self.waiting.popleft()
            self.prefilling.state = RequestState.PREFILLING
        request = self.prefilling
        return PrefillChunk(request, len(self.decoding), min(budget_tokens, request.remaining_prompt_tokens))

    def begin_decoding(self, request: Request) -> None:
        """The prompt is computed: its slot joins the decode batch."""
        if request is not self.prefilling:
            raise ValueError(f"request {request.id} is not the one in prefill")
        self.prefilling = None
        request.state = RequestState.DECODING
        self.decoding.append(request)

    def remove(self, request: Request) -> list[SlotMove]:
        """Take an ended request out, wherever it stands; returns the cache moves that keep slots side by side."""
        state, request.state = request.state, RequestState.ENDED
        if state is RequestState.WAITING:
            self.waiting.remove(request)
            return []
        if state is RequestState.PREFILLING:
            self.prefilling = None
            return []
        moves = []
        slot, last = self.decoding.index(request), len(self.decoding) - 1
        if slot != last:
            moves.append(SlotMove(last, slot, self.decoding[last].computed_tokens))
            self.decoding[slot] = self.decoding[last]
        self.decoding.pop()
        if self.prefilling is not None:
            moves.append(SlotMove(last + 1, last, self.prefilling.computed_tokens))
        return moves
