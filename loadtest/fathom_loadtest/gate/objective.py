"""What a stage's figures must keep: ``ttft_ms.p95 <= 200``."""

import math
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.metrics import DISTRIBUTIONS, STATISTICS, TOTALS

Relation = Literal["<=", ">="]

GOOD_SHARE: Final = "good_share"
"""Share of a stage's requests, without those that the scenario cancelled, that met all the run's SLOs."""
ATTAINMENT: Final = 0.95
"""Share of its requests that must meet the SLOs for a stage to keep them, unless said otherwise."""

_FORM: Final = re.compile(r"\s*(\w+)(?:\.(\w+))?\s*(<=|>=)\s*(\S+)\s*")
_TOTALS: Final = (*(figure.name for figure in TOTALS), GOOD_SHARE)
_DISTRIBUTIONS: Final = tuple(figure.name for figure in DISTRIBUTIONS)
_UNITS: Final = {figure.name: figure.unit for figure in (*TOTALS, *DISTRIBUTIONS)} | {GOOD_SHARE: "share"}
_LABELS: Final = {figure.name: figure.label for figure in (*TOTALS, *DISTRIBUTIONS)} | {
    GOOD_SHARE: "Requests that meet all SLOs"
}


@dataclass(frozen=True, slots=True)
class Objective:
    """A bound of one figure, in its unit; ``statistic`` is None for a figure that is one number."""

    figure: str
    statistic: str | None
    relation: Relation
    limit: float

    def __post_init__(self) -> None:
        if self.figure in _DISTRIBUTIONS:
            if self.statistic not in STATISTICS:
                raise ScenarioError(
                    f"objective {self.text!r} needs a statistic of {self.figure}: one of {', '.join(STATISTICS)}"
                )
        elif self.figure not in _TOTALS:
            raise ScenarioError(
                f"objective {self.text!r} names no figure; valid: {', '.join((*_DISTRIBUTIONS, *_TOTALS))}"
            )
        elif self.statistic is not None:
            raise ScenarioError(f"objective {self.text!r}: {self.figure} is one number; leave .{self.statistic} out")
        if not math.isfinite(self.limit) or self.limit < 0:
            raise ScenarioError(f"objective {self.text!r} is out of range; its limit must not be negative")

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """Read ``FIGURE.STATISTIC <= LIMIT``; raises ScenarioError naming what is wrong with it."""
        match = _FORM.fullmatch(text)
        try:
            limit = float(match[4]) if match else math.nan
        except ValueError:
            match = None
        if match is None:
            raise ScenarioError(
                f"objective {text!r} is not FIGURE.STATISTIC<=LIMIT or >=LIMIT, for example ttft_ms.p95<=200"
            )
        return cls(match[1], match[2], "<=" if match[3] == "<=" else ">=", limit)

    @property
    def text(self) -> str:
        """The objective as ``parse`` reads it."""
        return f"{self.name} {self.relation} {self.limit:g}"

    @property
    def name(self) -> str:
        """Figure and statistic."""
        return self.figure if self.statistic is None else f"{self.figure}.{self.statistic}"

    @property
    def label(self) -> str:
        """Figure and statistic for a reader."""
        label = _LABELS[self.figure]
        return label if self.statistic is None else f"{label}, {self.statistic}"

    @property
    def unit(self) -> str:
        """Unit of the figure."""
        return _UNITS[self.figure]

    def value(self, figures: dict[str, Any]) -> float | None:
        """Look its number up in a stage's figures as report.json holds them; None where the stage has none."""
        if self.figure == GOOD_SHARE:
            return _good_share(figures)
        found = figures.get(self.figure)
        if self.statistic is not None:
            found = found.get(self.statistic) if isinstance(found, dict) else None
        return float(found) if isinstance(found, int | float) else None

    def kept(self, value: float | None) -> bool:
        """Whether a number keeps it; one that is missing does not."""
        if value is None:
            return False
        return value <= self.limit if self.relation == "<=" else value >= self.limit

    def margin(self, value: float | None) -> float | None:
        """How far within its limit a number is, as a share of the limit: below 0 where it is beyond."""
        if value is None or not self.limit:
            return None
        return (self.limit - value if self.relation == "<=" else value - self.limit) / self.limit


def _good_share(figures: dict[str, Any]) -> float | None:
    counted = figures["requests"] - figures.get("cancelled", 0)
    if not counted:
        return None
    if not figures["succeeded"]:
        return 0.0
    if figures["goodput"] is None or figures["duration_s"] is None:
        return None
    return float(round(figures["goodput"] * figures["duration_s"]) / counted)
