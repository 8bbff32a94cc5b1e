"""Statistics of many values: exact while they fit in memory, then from a histogram of bounded size.

Percentiles interpolate linearly between the two nearest values (numpy's ``linear``); the standard deviation divides by
n (``ddof=0``).
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERCENTILES: Final = (1, 5, 10, 25, 50, 75, 90, 95, 99)
PERCENTILE_METHOD: Final = "linear interpolation between the two nearest values (numpy.percentile, method 'linear')"
STATISTICS: Final = ("avg", "min", "max", *(f"p{percentile}" for percentile in PERCENTILES), "std")

EXACT_VALUES: Final = 1 << 20
"""So many values are kept as they are (8 MiB); from then on a distribution is a histogram."""
_BUCKET_BITS: Final = 11
RESOLUTION: Final = 2.0 ** -(_BUCKET_BITS + 1)
"""Half a bucket's width relative to its values: how far a percentile of a histogram can be off (0.024 %)."""
_DROPPED_BITS: Final = 52 - _BUCKET_BITS
_FOLDED_AT_ONCE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of ``count`` values, in the values' own unit.

    ``resolution`` is how far the percentiles can be off, relative to themselves: 0 where every value was kept.
    """

    count: int
    avg: float
    min: float
    max: float
    p1: float
    p5: float
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float
    p95: float
    p99: float
    std: float
    resolution: float = 0.0


def statistics(values: Sequence[float]) -> Statistics | None:
    """Statistics of the values; None where there are none."""
    distribution = Distribution()
    distribution.extend(values)
    return distribution.statistics()


class Distribution:
    """Values of one figure, none negative: all of them up to ``EXACT_VALUES``, then how many lie in each bucket.

    The buckets are those of an HDR histogram (Tene, hdrhistogram.org), cut by dropping the low bits of a value's
    floating-point mantissa: 2,048 of equal width between each power of two and the next, whatever the range, and
    found for a million values in one vectorised step. Count, average, standard deviation and extremes stay exact.
    Distributions of several processes merge without loss.
    """

    __slots__ = ("_counts", "_folded", "_max", "_mean", "_min", "_squares", "_values")

    def __init__(self) -> None:
        self._values = array("d")
        self._counts: dict[int, int] = {}
        # moments of what the buckets hold: number, mean, sum of squared differences from the mean
        self._folded = 0
        self._mean = self._squares = 0.0
        self._min, self._max = math.inf, -math.inf

    def __len__(self) -> int:
        return self._folded + len(self._values)

    def add(self, value: float) -> None:
        """Take one value."""
        self._values.append(value)
        if len(self._values) >= (_FOLDED_AT_ONCE if self._folded else EXACT_VALUES):
            self._fold()

    def extend(self, values: Iterable[float]) -> None:
        """Take several values."""
        self._values.extend(values)
        if len(self._values) >= (_FOLDED_AT_ONCE if self._folded else EXACT_VALUES):
            self._fold()

    def merge(self, other: "Distribution") -> None:
        """Take another distribution's values."""
        if other._folded:
            self._fold()
            for bucket, number in other._counts.items():
                self._counts[bucket] = self._counts.get(bucket, 0) + number
            self._add_moments(other._folded, other._mean, other._squares, other._min, other._max)
        self.extend(other._values)

    def statistics(self) -> Statistics | None:
        """Statistics of the values; None where there are none."""
        if not len(self):
            return None
        if self._folded:
            self._fold()
            ranks = self._histogram_ranks()
            average, deviation = self._mean, math.sqrt(self._squares / self._folded)
            least, most = self._min, self._max
        else:
            import numpy as np

            exact = np.frombuffer(self._values)
            ranks = [float(rank) for rank in np.percentile(exact, PERCENTILES, method="linear")]
            average, deviation = float(exact.mean()), float(exact.std())
            least, most = float(exact.min()), float(exact.max())
        named = {f"p{percentile}": rank for percentile, rank in zip(PERCENTILES, ranks, strict=True)}
        return Statistics(
            count=len(self), avg=average, min=least, max=most, std=deviation,
            resolution=RESOLUTION if self._folded else 0.0, **named,
        )  # fmt: skip

    def to_state(self) -> dict[str, Any]:
        """Everything in plain values and bytes, for another process."""
        moments = [self._folded, self._mean, self._squares, self._min, self._max]
        return {"values": self._values.tobytes(), "counts": list(self._counts.items()), "moments": moments}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Undo ``to_state``."""
        self = cls()
        self._values.frombytes(state["values"])
        self._counts = dict(state["counts"])
        self._folded, self._mean, self._squares, self._min, self._max = state["moments"]
        return self

    def _fold(self) -> None:
        """Move the kept values into the buckets."""
        if not self._values:
            return
        import numpy as np

        kept = np.frombuffer(self._values)
        buckets, numbers = np.unique(kept.view(np.int64) >> _DROPPED_BITS, return_counts=True)
        for bucket, number in zip(buckets.tolist(), numbers.tolist(), strict=True):
            self._counts[bucket] = self._counts.get(bucket, 0) + number
        mean = float(kept.mean())
        squares = float(np.square(kept - mean).sum())
        self._add_moments(len(kept), mean, squares, float(kept.min()), float(kept.max()))
        self._values = array("d")

    def _add_moments(self, number: int, mean: float, squares: float, least: float, most: float) -> None:
        """Join the moments of two sets (Chan, Golub and LeVeque, 1979)."""
        total = self._folded + number
        difference = mean - self._mean
        self._squares += squares + difference * difference * self._folded * number / total
        self._mean += difference * number / total
        self._folded = total
        self._min, self._max = min(self._min, least), max(self._max, most)

    def _histogram_ranks(self) -> list[float]:
        import numpy as np

        buckets = np.array(sorted(self._counts), dtype=np.int64)
        upto = np.cumsum([self._counts[bucket] for bucket in buckets.tolist()])
        middles = _middles(buckets)

        def at(rank: int) -> float:
            middle = float(middles[np.searchsorted(upto, rank, side="right")])
            return min(max(middle, self._min), self._max)

        found = []
        for percentile in PERCENTILES:
            rank = percentile / 100 * (self._folded - 1)
            below, above = at(math.floor(rank)), at(math.ceil(rank))
            found.append(below + (above - below) * (rank % 1))
        return found


def _middles(buckets: "NDArray[np.int64]") -> "NDArray[np.float64]":
    import numpy as np

    lower, upper = (buckets << _DROPPED_BITS).view(np.float64), ((buckets + 1) << _DROPPED_BITS).view(np.float64)
    middles: NDArray[np.float64] = (lower + upper) / 2
    return middles
