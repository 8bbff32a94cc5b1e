"""Two runs compared: each figure's difference, how sure it is, and what it amounts to."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from fathom_loadtest.compare.bootstrap import DRAWS, FEWEST_SLICES, interval
from fathom_loadtest.compare.measure import MEASURES, Measure
from fathom_loadtest.compare.mismatch import Mismatch, mismatches
from fathom_loadtest.compare.sample import StageDraws, StageSample
from fathom_loadtest.errors import ComparisonError, ScenarioError
from fathom_loadtest.report.saved import SavedReport, SavedStage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA: Final = "fathom-comparison/1"
Verdict = Literal["better", "worse", "no difference", "unclear"]
ABSOLUTE_EFFECT: Final = 0.01
"""Smallest difference between shares that counts: one request in a hundred."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """When a difference counts.

    Its interval (``confidence``, 0 to 1) must leave out zero, and it must be at least ``min_effect`` (a share of the
    value in run A; shares themselves must differ by ABSOLUTE_EFFECT).
    """

    confidence: float = 0.99
    min_effect: float = 0.05

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise ScenarioError(f"--confidence {self.confidence} is out of range; it must be at least 0.5 and below 1")
        if not 0 <= self.min_effect < 1:
            raise ScenarioError(f"--min-effect {self.min_effect} is out of range; it must be at least 0 and below 1")

    def verdict(self, measure: Measure, change: float | None, bounds: tuple[float, float] | None) -> Verdict:
        """Judge a change, B against A; unclear where its interval allows for an effect without proving one."""
        if change is None or bounds is None:
            return "unclear"
        effect = ABSOLUTE_EFFECT if measure.absolute else self.min_effect
        low, high = bounds
        if abs(change) >= effect and (low > 0 or high < 0):
            return "better" if (change < 0) == (measure.better == "lower") else "worse"
        return "no difference" if -effect <= low and high <= effect else "unclear"


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure in run A and run B.

    ``change`` and its interval from ``low`` to ``high`` are relative to A (0.1: ten per cent more), or B − A where the
    measure is absolute; None where there is none.
    """

    measure: Measure
    a: float | None
    b: float | None
    change: float | None
    low: float | None
    high: float | None
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Every field, the measure by its name."""
        fields = asdict(self)
        own = fields.pop("measure")
        return {
            "figure": self.measure.name,
            "better": own["better"],
            "change_is": "difference" if own["absolute"] else "relative",
            **fields,
        }


@dataclass(frozen=True, slots=True)
class StageComparison:
    """One stage that both runs have. ``slices``: how many slices of time A's and B's draws are made of."""

    label: str
    slices: tuple[int, int]
    differences: tuple[Difference, ...]

    @property
    def rough(self) -> bool:
        """Whether a run was so short or uneven that its slices are few: its intervals may be too narrow."""
        return min(self.slices) <= FEWEST_SLICES


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run A against run B, stage by stage. ``unpaired`` names stages that only one run has."""

    a: SavedReport
    b: SavedReport
    tolerance: Tolerance
    seed: int
    mismatches: tuple[Mismatch, ...]
    stages: tuple[StageComparison, ...]
    unpaired: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Worse where any figure is; else better, unclear or no difference, in this order."""
        found = {difference.verdict for stage in self.stages for difference in stage.differences}
        order: tuple[Verdict, ...] = ("worse", "better", "unclear")
        return next((verdict for verdict in order if verdict in found), "no difference")

    def count(self, verdict: Verdict) -> int:
        """How many figures of all stages have the verdict."""
        return sum(difference.verdict == verdict for stage in self.stages for difference in stage.differences)

    def to_json(self) -> dict[str, Any]:
        """The whole comparison; documented in the distribution's README."""
        return {
            "schema": SCHEMA,
            "a": {"report": str(self.a.path), "started_at": self.a.started_at},
            "b": {"report": str(self.b.path), "started_at": self.b.started_at},
            "verdict": self.verdict,
            "confidence": self.tolerance.confidence,
            "min_effect": self.tolerance.min_effect,
            "min_effect_of_shares": ABSOLUTE_EFFECT,
            "draws": DRAWS,
            "seed": self.seed,
            "mismatches": [asdict(mismatch) for mismatch in self.mismatches],
            "unpaired": list(self.unpaired),
            "stages": [
                {
                    "stage": stage.label,
                    "slices": list(stage.slices),
                    "figures": [difference.to_json() for difference in stage.differences],
                }
                for stage in self.stages
            ],
        }


def compare(
    a: SavedReport, b: SavedReport, tolerance: Tolerance, *, seed: int = 0, any_workload: bool = False
) -> Comparison:
    """Compare run B with run A, stage by stage.

    Raises ComparisonError where their workloads differ (unless ``any_workload``) or no stage is in both, and
    ReportFileError where a run's requests cannot be read.
    """
    found = mismatches(a, b)
    workload = [str(mismatch) for mismatch in found if mismatch.kind == "workload"]
    if workload and not any_workload:
        raise ComparisonError(
            f"the runs are not comparable, their requests differ ({'; '.join(workload)}); "
            "run the same scenario twice, or compare all the same with --any-workload"
        )
    others = {stage.label: stage for stage in reversed(b.stages)}
    pairs = [(stage, others[stage.label]) for stage in a.stages if stage.label in others]
    if not pairs:
        labels = [", ".join(stage.label for stage in run.stages) or "none" for run in (a, b)]
        raise ComparisonError(
            f"the runs have no stage in common (A: {labels[0]}; B: {labels[1]}); run both with the same load"
        )
    shared = {stage.label for stage, _ in pairs}
    judged = tuple(
        measure
        for measure in MEASURES
        if measure.figure != "goodput" or not any(mismatch.kind == "objectives" for mismatch in found)
    )
    samples = [_samples(run, {stage.stage for stage in run.stages if stage.label in shared}) for run in (a, b)]
    return Comparison(
        a=a,
        b=b,
        tolerance=tolerance,
        seed=seed,
        mismatches=found,
        stages=tuple(
            _compare_stage(
                first, second, samples[0].get(first.stage), samples[1].get(second.stage), judged, tolerance, seed
            )
            for first, second in pairs
        ),
        unpaired=tuple(
            f"{stage.label} in {name} only"
            for name, run in (("A", a), ("B", b))
            for stage in run.stages
            if stage.label not in shared
        ),
    )


def _samples(run: SavedReport, stages: set[int]) -> dict[int, StageSample]:
    found: dict[int, StageSample] = {}
    slos = run.slos
    for record in run.records():
        if record.stage in stages:
            found.setdefault(record.stage, StageSample()).add(record, slos)
    return found


def _compare_stage(
    first: SavedStage,
    second: SavedStage,
    sample_a: StageSample | None,
    sample_b: StageSample | None,
    measures: tuple[Measure, ...],
    tolerance: Tolerance,
    seed: int,
) -> StageComparison:
    present = [measure for measure in measures if None not in (measure.of(first.figures), measure.of(second.figures))]
    if sample_a is None or sample_b is None:
        differences = [_difference(m, m.of(first.figures), m.of(second.figures), None, tolerance) for m in present]
        return StageComparison(first.label, (0, 0), tuple(differences))
    draws = StageDraws(sample_a, seed), StageDraws(sample_b, seed + 1)
    drawn_a, drawn_b = draws[0].of(present), draws[1].of(present)
    slices = draws[0].slices, draws[1].slices
    differences = []
    for measure in present:
        bounds = None
        if measure in drawn_a and measure in drawn_b:
            changes = _changes(measure, drawn_a[measure], drawn_b[measure])
            bounds = interval(changes, tolerance.confidence, min(slices))
        differences.append(
            _difference(measure, measure.of(first.figures), measure.of(second.figures), bounds, tolerance)
        )
    return StageComparison(first.label, slices, tuple(differences))


def _changes(measure: Measure, a: "NDArray[np.float64]", b: "NDArray[np.float64]") -> "NDArray[np.float64]":
    import numpy as np

    if measure.absolute:
        return np.subtract(b, a)
    ratios: NDArray[np.float64] = np.divide(b, a, out=np.full(len(a), np.nan), where=a > 0)
    return np.subtract(ratios, 1)


def _difference(
    measure: Measure, a: float | None, b: float | None, bounds: tuple[float, float] | None, tolerance: Tolerance
) -> Difference:
    change = None
    if a is not None and b is not None:
        change = b - a if measure.absolute else (b / a - 1 if a else None)
    low, high = bounds or (None, None)
    return Difference(measure, a, b, change, low, high, tolerance.verdict(measure, change, bounds))
