"""Confidence intervals of a stage's figures, by a bootstrap over slices of time.

Requests of one run are not independent: a full queue delays many in a row. So the stage is cut into slices of equal
length, and whole slices are drawn with replacement (a block bootstrap with blocks that do not overlap: Carlstein,
Annals of Statistics 14, 1986). The slices are made longer until neighbours no longer resemble each other (batch means
whose autocorrelation is tested: Fishman, Management Science 24, 1978). Every figure of a draw is computed from the
requests of its slices, counted as often as their slice was drawn: quantiles as ``numpy.percentile`` would give them on
the drawn requests, throughputs as amounts per drawn second.

With few slices the percentiles of such draws are too narrow; they are widened by the factor that makes the interval of
a mean Student's (the expanded percentile interval: Hesterberg, The American Statistician 69, 2015, section 5.3).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRAWS: Final = 2000
FEWEST_SLICES: Final = 5
MOST_SLICES: Final = 64
_MOST_BINS: Final = 4096
_DRAWS_AT_ONCE: Final = 250


def slice_count(places: "NDArray[np.float64]", latencies: "NDArray[np.float64]", usual: float) -> int:
    """Give the number of slices of a stage whose requests had these latencies at these places, from 0 to 1.

    ``usual`` is the share of the stage that a usual request takes; a slice takes two of them at least. Slices are
    doubled in length while the latencies of neighbours are positively correlated (at lag 1), down to FEWEST_SLICES.
    """
    import numpy as np

    number = int(min(MOST_SLICES, max(FEWEST_SLICES, 0.5 / max(usual, 1e-9))))
    while number > FEWEST_SLICES:
        where = place_of(places, number)
        counts = np.bincount(where, minlength=number)
        # what each slice adds to the deviation of the mean
        excess = np.bincount(where, weights=latencies, minlength=number) - counts * latencies.mean()
        if float(excess[1:] @ excess[:-1]) <= 0:
            break
        number = max(FEWEST_SLICES, number // 2)
    return number


def place_of(places: "NDArray[np.float64]", slices: int) -> "NDArray[np.int64]":
    """Give the slice of each place, which is a share of the stage's time; what lies outside belongs to the edges."""
    import numpy as np

    return np.clip((places * slices).astype(np.int64), 0, slices - 1)


@dataclass(frozen=True, slots=True)
class Draws:
    """How often each slice was drawn: ``weights`` float64 [draws, slices], each row sums to the number of slices."""

    weights: "NDArray[np.float64]"

    @classmethod
    def make(cls, slices: int, seed: int, draws: int = DRAWS) -> "Draws":
        """Draw ``slices`` slices with replacement, ``draws`` times."""
        import numpy as np

        random = np.random.default_rng(seed)
        return cls(random.multinomial(slices, np.full(slices, 1 / slices), size=draws).astype(np.float64))

    @property
    def slices(self) -> int:
        """How many slices there are."""
        return int(self.weights.shape[1])

    def ratios(self, amounts: "NDArray[np.float64]", over: "NDArray[np.float64]") -> "NDArray[np.float64]":
        """Sum of ``amounts`` [slices] over sum of ``over`` [slices] in each draw: [draws], NaN where that is over 0."""
        import numpy as np

        below = self.weights @ over
        return np.divide(self.weights @ amounts, below, out=np.full(len(below), np.nan), where=below > 0)

    def means(self, values: "NDArray[np.float64]", where: "NDArray[np.int64]") -> "NDArray[np.float64]":
        """Mean of the values in each draw, [draws]; ``where`` [values] is each value's slice."""
        import numpy as np

        sums = np.bincount(where, weights=values, minlength=self.slices).astype(np.float64)
        return self.ratios(sums, np.bincount(where, minlength=self.slices).astype(np.float64))

    def quantiles(
        self, values: "NDArray[np.float64]", where: "NDArray[np.int64]", ranks: tuple[float, ...]
    ) -> "NDArray[np.float64]":
        """Quantiles (``ranks`` from 0 to 1) of the values in each draw, [draws, ranks]; NaN where a draw has no value.

        Up to 4096 different values are exact; more are put into as many bins of about equal counts, whose mean stands
        for them.
        """
        import numpy as np

        order = np.argsort(values, kind="stable")
        values, where = values[order], where[order]
        size = len(values)
        bins = np.arange(size) if size <= _MOST_BINS else np.arange(size) * _MOST_BINS // size
        number = int(bins[-1]) + 1
        centres = np.bincount(bins, weights=values) / np.bincount(bins)
        counts = np.zeros((self.slices, number))
        np.add.at(counts, (where, bins), 1)
        found = np.full((len(self.weights), len(ranks)), np.nan)
        for first in range(0, len(self.weights), _DRAWS_AT_ONCE):
            rows = slice(first, first + _DRAWS_AT_ONCE)
            below = np.cumsum(self.weights[rows] @ counts, axis=1)
            totals = below[:, -1]
            for column, rank in enumerate(ranks):
                place = np.maximum(totals - 1, 0) * rank
                lower = np.floor(place)
                # the value at a place (from 0) is that of the first bin with more than so many values up to it
                low = (below <= lower[:, None]).sum(axis=1).clip(max=number - 1)
                high = (below <= np.minimum(lower + 1, totals - 1)[:, None]).sum(axis=1).clip(max=number - 1)
                drawn = centres[low] + (place - lower) * (centres[high] - centres[low])
                found[rows, column] = np.where(totals > 0, drawn, np.nan)
        return found


def interval(draws: "NDArray[np.float64]", confidence: float, slices: int) -> tuple[float, float] | None:
    """Give the expanded percentile interval of a number drawn so often, from runs of at least ``slices`` slices.

    None where more than a tenth of the draws have no such number.
    """
    import numpy as np
    from scipy import stats

    known = draws[np.isfinite(draws)]
    if len(known) < 0.9 * len(draws):
        return None
    tail = stats.norm.cdf(np.sqrt(slices / (slices - 1)) * stats.t.ppf((1 - confidence) / 2, slices - 1))
    low, high = np.quantile(known, (tail, 1 - tail))
    return float(low), float(high)
