"""The filters of a job in their order, and what each of them counted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fathom_synth.candidate import Candidate
from fathom_synth.filters.base import Filter
from fathom_synth.filters.settings import FilterSettings


@dataclass(slots=True)
class Stage:
    """One filter with its settings; how many candidates came to it, and why it dropped how many."""

    settings: FilterSettings
    filter: Filter
    seen: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """The filter's name, a judge's own."""
        return str(getattr(self.settings, "name", self.settings.filter))

    def to_json(self) -> dict[str, Any]:
        """Settings and counts as JSON holds them; of files the names."""
        settings = self.settings.model_dump(mode="json", exclude={"filter"}, exclude_none=True)
        if "held_out" in settings:
            settings["held_out"] = [path.rsplit("/", 1)[-1] for path in settings["held_out"]]
        return {
            "filter": self.settings.filter,
            "settings": settings,
            "seen": self.seen,
            "dropped": sum(self.dropped.values()),
            "reasons": dict(sorted(self.dropped.items())),
        }


@dataclass(frozen=True, slots=True)
class Rejection:
    """A candidate that a filter dropped."""

    candidate: Candidate
    filter: str
    reason: str


async def sift(stages: Sequence[Stage], candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Rejection]]:
    """Lead candidates through all filters in order; gives those that passed and those that did not, each in order."""
    kept, rejected = list(candidates), []
    for stage in stages:
        stage.seen += len(kept)
        reasons = await stage.filter.reasons(kept)
        passed = []
        for candidate, reason in zip(kept, reasons, strict=True):
            if reason is None:
                passed.append(candidate)
            else:
                stage.dropped[reason] += 1
                rejected.append(Rejection(candidate, stage.name, reason))
        kept = passed
    return kept, rejected
