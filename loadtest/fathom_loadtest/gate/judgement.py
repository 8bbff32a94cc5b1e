"""Stages held against objectives."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fathom_loadtest.gate.objective import ATTAINMENT, GOOD_SHARE, Objective
from fathom_loadtest.scenario import Slo

_PERCENTILES = (50, 75, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One objective held against one stage; ``value`` is None where the stage has no such figure."""

    stage: str
    objective: Objective
    value: float | None

    @property
    def kept(self) -> bool:
        """Whether the stage keeps the objective."""
        return self.objective.kept(self.value)

    @property
    def margin(self) -> float | None:
        """How far within the limit the stage is, as a share of the limit."""
        return self.objective.margin(self.value)

    def to_json(self) -> dict[str, Any]:
        """The judgement as JSON holds it."""
        return {
            "stage": self.stage,
            "objective": self.objective.text,
            "value": self.value,
            "margin": self.margin,
            "kept": self.kept,
        }


def judge(
    stages: Iterable[tuple[str, dict[str, Any]]],
    objectives: Sequence[Objective],
    of_stage: Mapping[str, Sequence[Objective]] | None = None,
) -> tuple[Judgement, ...]:
    """Hold stages, (label, figures as report.json holds them), against objectives, and those of one stage alone."""
    return tuple(
        Judgement(label, objective, objective.value(figures))
        for label, figures in stages
        for objective in (*objectives, *(of_stage or {}).get(label, ()))
    )


def objectives_of(
    slos: Sequence[Slo], attainment: float = ATTAINMENT, *, open_loop: bool = False
) -> tuple[Objective, ...]:
    """Turn objectives of single requests into those of a stage: the share of requests that must meet each of them.

    The latencies' limits are put on the next percentile at or above ``attainment``, in an open loop on latencies from
    the intended start; the share of requests that meet all of them comes first.
    """
    if not slos:
        return ()
    rank = next((percentile for percentile in _PERCENTILES if percentile >= attainment * 100), _PERCENTILES[-1])
    due = {"ttft_ms": "due_ttft_ms", "request_latency_ms": "due_request_latency_ms"} if open_loop else {}
    each = (Objective(due.get(slo.name, slo.name), f"p{rank}", "<=", slo.limit_ms) for slo in slos)
    return (Objective(GOOD_SHARE, None, ">=", attainment), *each)
