"""What a filter is."""

from collections.abc import Sequence
from typing import Protocol

from fathom_synth.candidate import Candidate


class Filter(Protocol):
    """Says of candidates, in the job's order, which are dropped and why; it may keep what it has seen."""

    async def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """For each candidate, why it is dropped in two or three words that are counted, or None. May add scores."""
        ...
