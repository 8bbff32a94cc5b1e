"""Time series made short enough to draw: so many steps a stage, whatever it lasted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from fathom_loadtest.report.document import StageReport

MOST_STEPS: Final = 90
"""A stage is drawn in so many steps at most; longer series are joined by whole numbers of their buckets."""
_SLIVER: Final = 0.34

Value = float | None


@dataclass(frozen=True, slots=True)
class Steps:
    """Times of a stage's steps: ``edges_s`` [steps + 1] in seconds since the stage opened; ``size`` buckets a step."""

    edges_s: tuple[float, ...]
    size: int

    @classmethod
    def of(cls, stage: StageReport) -> "Steps | None":
        """Cut the stage's series; None where it has none. The first and last step end where the stage does."""
        series = stage.series
        buckets = len(series.started)
        if not buckets:
            return None
        size = -(-buckets // MOST_STEPS)
        closed_s = (stage.closed_ns - stage.opened_ns) / 1e9
        starts = [series.start_s + place * series.bucket_s for place in range(0, buckets, size)]
        end = series.start_s + buckets * series.bucket_s
        # a worker's clock may be moved a little too far, so that its last bucket lies behind the stage's end
        edges = [max(starts[0], 0.0), *starts[1:], min(end, closed_s) if closed_s > starts[-1] else end]
        return cls(tuple(edges), size) if all(a < b for a, b in pairwise(edges)) else None

    @property
    def seconds(self) -> float:
        """How long a step is."""
        widths = [later - earlier for earlier, later in pairwise(self.edges_s)]
        return max(widths)

    @property
    def middles_s(self) -> list[float]:
        """Middle of each step."""
        return [(earlier + later) / 2 for earlier, later in pairwise(self.edges_s)]

    def rates(self, counts: Sequence[int]) -> list[Value]:
        """Turn counts a bucket into rates a second; none for a sliver at an end, whose rate would be chance."""
        sums = [sum(counts[place : place + self.size]) for place in range(0, len(counts), self.size)]
        widths = [later - earlier for earlier, later in pairwise(self.edges_s)]
        usual = max(widths)
        return [total / width if width > _SLIVER * usual else None for total, width in zip(sums, widths, strict=True)]

    def joined(self, values: Sequence[Value], join: Callable[[list[float]], float]) -> list[Value]:
        """Join the values of a step's buckets that have one."""
        groups = [values[place : place + self.size] for place in range(0, len(values), self.size)]
        present = [[value for value in group if value is not None] for group in groups]
        return [join(group) if group else None for group in present]


def thinned(at_s: Sequence[float], values: Sequence[Value]) -> tuple[list[float], list[float]]:
    """Average samples down to ``MOST_STEPS``; samples without a value are left out."""
    pairs = [(at, value) for at, value in zip(at_s, values, strict=True) if value is not None]
    size = -(-len(pairs) // MOST_STEPS) or 1
    groups = [pairs[place : place + size] for place in range(0, len(pairs), size)]
    times = [sum(at for at, _ in group) / len(group) for group in groups]
    return times, [sum(value for _, value in group) / len(group) for group in groups]
