"""What two runs are compared by: one number of a figure, and which way is better."""

from dataclasses import dataclass
from typing import Final, Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of a stage: a figure's ``statistic`` ("avg", "p50", …), or the figure itself where that is None.

    ``absolute`` measures are compared by their difference, since a ratio to an error rate of 0 means nothing; the
    others by their relative change.
    """

    figure: str
    statistic: str | None
    better: Better
    absolute: bool = False

    @property
    def name(self) -> str:
        """Name as flags and tables have it, ``ttft_ms.p95``."""
        return self.figure if self.statistic is None else f"{self.figure}.{self.statistic}"

    def of(self, figures: dict[str, object]) -> float | None:
        """Look the number up in a stage's figures as report.json holds them; None where the stage has none."""
        found = figures.get(self.figure)
        if self.statistic is not None:
            found = found.get(self.statistic) if isinstance(found, dict) else None
        return float(found) if isinstance(found, int | float) else None


DISTRIBUTIONS: Final = (
    "ttft_ms", "itl_ms", "inter_chunk_latency_ms", "request_latency_ms", "due_ttft_ms", "due_request_latency_ms",
)  # fmt: skip
"""Figures with one value a request (or response), of which statistics are compared."""

MEASURES: Final = (
    *(
        Measure(figure, statistic, "lower")
        for figure in DISTRIBUTIONS
        for statistic in (("p99",) if figure == "inter_chunk_latency_ms" else ("avg", "p50", "p95", "p99"))
    ),
    Measure("request_throughput", None, "higher"),
    Measure("output_token_throughput", None, "higher"),
    Measure("goodput", None, "higher"),
    Measure("error_rate", None, "lower", absolute=True),
)
