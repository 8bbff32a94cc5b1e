"""Who answers: what is measured of an answer, and what is asked of whoever gives it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.speculation.workloads import Job


@dataclass(slots=True)
class Answer:
    """Tokens, and when the first and the last of them came; the first piece may bring several."""

    token_ids: list[int] = field(default_factory=list)
    first_piece: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def add(self, token_ids: Sequence[int]) -> None:
        """Take a piece's tokens."""
        if not token_ids:
            return
        self.last_s = time.perf_counter()
        if not self.token_ids:
            self.first_s, self.first_piece = self.last_s, len(token_ids)
        self.token_ids += token_ids


class Contender(Protocol):
    """A model with one method."""

    def answer(self, job: Job) -> Answer:
        """Generate, and wait for the end."""
        ...

    def counts(self) -> tuple[int, int] | None:
        """Drafted tokens tried and kept so far; None where that is not known."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...
