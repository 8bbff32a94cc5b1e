"""A request: a prompt on its way to one answer or several, and whom it answers."""

import time
from array import array
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol, Self

from fathom_server.engine.sampler import Choice
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.errors import RequestError

if TYPE_CHECKING:
    from fathom_server.engine.grammar import Grammar
    from fathom_server.engine.sequence import Sequence

NO_DEADLINE: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one of a request's answers.

    ``text`` is certain; ``token_ids`` are those since the answer's last piece, ``choices`` how each was chosen, where
    log-probabilities are wanted. ``finish_reason`` stands on an answer's last piece, ``is_last`` on the request's.
    ``prompt_choices`` (log-probabilities of the prompt's tokens but the first) and ``cached_tokens`` (prompt tokens
    that were found in the cache) come with the first piece.
    """

    sequence: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None = None
    choices: tuple[Choice, ...] = ()
    prompt_choices: tuple[Choice, ...] = ()
    cached_tokens: int = 0
    is_last: bool = False

    def of(self, sequence: int, *, is_last: bool) -> Self:
        """The same piece as one of another answer of the request."""
        return replace(self, sequence=sequence, is_last=is_last)


class AnswerSink(Protocol):
    """Where a request's answers go. Called from the engine's thread, so it must not block."""

    def on_piece(self, piece: Piece) -> None:
        """Take the next piece; the one that ``is_last`` is the last call."""
        ...

    def on_error(self, error: RequestError) -> None:
        """Take the reason why there will be no more; the last call."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """One prompt; owned by the engine's thread once submitted.

    While it waits it is little more than its prompt, int32 ``prompt_ids``; ``sequences`` are made when it is admitted.
    A lower ``priority`` goes first. ``client`` names whom it belongs to, for fairness. ``lane`` is the one that it asks
    for, if any. ``deadline`` and
    ``queue_deadline`` (by which it must have been admitted) are ``time.monotonic()`` instants in seconds.
    """

    id: str
    prompt_ids: "array[int]"
    sampling: SamplingParameters
    max_tokens: int
    sink: AnswerSink
    deadline: float = NO_DEADLINE
    queue_deadline: float = NO_DEADLINE
    priority: int = 0
    client: str = ""
    lane: int | None = None
    bad_word_ids: Ids[Ids[int]] = ()
    arrival: int = 0
    grammar: "Grammar | None" = None
    created: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first_token: float | None = None
    cancelled: bool = False
    sequences: "list[Sequence]" = field(default_factory=list)

    @property
    def rank(self) -> tuple[int, int]:
        """Who goes first: the lower, by priority, then by arrival."""
        return self.priority, self.arrival

    @property
    def generated_tokens(self) -> int:
        """Tokens of all its answers so far."""
        return sum(sequence.generated for sequence in self.sequences)

    @property
    def has_begun(self) -> bool:
        """Whether any of its answers has a token."""
        return any(sequence.generated for sequence in self.sequences)

    def late_reason(self, now: float) -> str | None:
        """What it missed, if it is too late for it."""
        if now >= self.deadline:
            done = f"{self.generated_tokens} of at most {self.max_tokens * self.sampling.sequences} tokens"
            return f"the request's deadline passed while {done} were ready"
        if self.admitted is None and now >= self.queue_deadline:
            return f"the request waited {now - self.created:.1f} s, longer than it may wait for its turn"
        return None
