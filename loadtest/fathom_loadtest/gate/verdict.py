"""What a gate says of a run: one line an objective, and the exit status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fathom_loadtest.gate.judgement import Judgement, judge
from fathom_loadtest.gate.objective import Objective
from fathom_loadtest.report.numbers import percent, short, signed_percent

EXIT_BROKEN: Final = 3
SCHEMA: Final = "fathom-gate/1"


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """Every objective held against every stage of a run; ``early`` says why the run shows nothing, else None."""

    judgements: tuple[Judgement, ...]
    early: str | None = None

    @classmethod
    def of(
        cls,
        stages: Sequence[tuple[str, dict[str, Any]]],
        every: Sequence[Objective],
        of_stage: Mapping[str, Sequence[Objective]],
        ending: str,
    ) -> "GateVerdict":
        """Hold stages, (label, figures as report.json holds them), against objectives."""
        return cls(judge(stages, every, of_stage), _early(ending))

    @classmethod
    def without_knee(cls, ending: str) -> "GateVerdict":
        """Judge a sweep none of whose stages kept the SLOs."""
        return cls((), _early(ending) or "no load of the sweep kept the SLOs")

    @property
    def kept(self) -> bool:
        """Whether the gate opens."""
        return not self.broken and self.early is None

    @property
    def broken(self) -> tuple[Judgement, ...]:
        """The objectives that were not kept."""
        return tuple(judgement for judgement in self.judgements if not judgement.kept)

    @property
    def status(self) -> int:
        """Exit status."""
        return 0 if self.kept else EXIT_BROKEN

    def lines(self) -> Sequence[str]:
        """One line an objective, broken ones first."""
        ordered = sorted(self.judgements, key=lambda judgement: judgement.kept)
        early = [] if self.early is None else [f"BROKEN  {self.early}"]
        return [*early, *(_line(judgement) for judgement in ordered)]

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON holds it."""
        return {
            "schema": SCHEMA,
            "kept": self.kept,
            "early": self.early,
            "objectives": [judgement.to_json() for judgement in self.judgements],
        }


def _early(ending: str) -> str | None:
    """A run that ended early has not shown that it keeps anything."""
    return None if ending == "completed" else f"the run ended early ({ending}); run it again"


def _line(judgement: Judgement) -> str:
    objective, value = judgement.objective, judgement.value
    mark = "kept  " if judgement.kept else "BROKEN"
    if value is None:
        return f"{mark}  {judgement.stage}: {objective.text}, but the stage has no such figure"
    number = percent(value) if objective.unit == "share" else f"{short(value)} {objective.unit}"
    margin = "" if judgement.margin is None else f" (margin {signed_percent(judgement.margin)})"
    return f"{mark}  {judgement.stage}: {objective.text}, reached {number}{margin}"
