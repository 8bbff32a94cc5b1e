"""Speculative decoding: tokens guessed ahead, tried in the same step, kept while the sampler draws the very same.

The guesses never change an answer, only how many of its tokens a step yields.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fathom_server.engine.sampling_parameters import SamplingParameters


@dataclass(frozen=True, slots=True)
class SpeculationCounters:
    """What speculation has done since the engine started: drafted tokens tried and kept, time spent on drafting."""

    method: str
    proposed_tokens: int
    accepted_tokens: int
    drafting_seconds: float

    @property
    def acceptance(self) -> float:
        """Share of the tried tokens that were kept, 0 before any was tried."""
        return self.accepted_tokens / self.proposed_tokens if self.proposed_tokens else 0.0


class DraftableSequence(Protocol):
    """What a speculator sees of a sequence that is being generated."""

    @property
    def id(self) -> Hashable:
        """Unique among all that the engine has ever run."""
        ...

    @property
    def token_ids(self) -> Sequence[int]:
        """Prompt and answer so far; only grows."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """How many of them are the prompt's: token ``prompt_tokens + p`` stands at output position ``p``."""
        ...

    @property
    def sampling(self) -> SamplingParameters:
        """How its tokens are chosen."""
        ...

    def uniform(self, position: int) -> float:
        """The random number in [0, 1) that the sampler uses at an output position."""
        ...


class Speculator(Protocol):
    """Guesses what sequences go on with. Called from the engine's thread alone."""

    def propose(self, sequences: Sequence[DraftableSequence], room: Sequence[int]) -> list[list[int]]:
        """Tokens to try for each sequence in the next step, at most ``room[i]`` of them; an empty list for none.

        Called before every step, with all sequences that decode in it.
        """
        ...

    def observe(self, sequence: DraftableSequence, proposed: int, accepted: int) -> None:
        """Of the tokens tried for a sequence in the last step, count those that were kept."""
        ...

    def observe_step(self, rows_tokens: int, seconds: float) -> None:
        """Learn what a step of ``rows_tokens`` tokens in all took, from its start until its tokens were chosen.

        Called after every step that ``propose`` was called for; time spent in ``propose`` does not belong to it.
        """
        ...

    def forget(self, sequence: DraftableSequence) -> None:
        """Let go of what is held for a sequence, which ended or was preempted; it may come back."""
        ...

    @property
    def counters(self) -> SpeculationCounters:
        """What was done so far."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...
