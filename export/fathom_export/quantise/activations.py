"""What a layer's inputs look like: gathered over calibration text, so that ranges and scores can be chosen."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

BINS_PER_OCTAVE: Final = 32
SMALLEST_EXPONENT: Final = -30
LARGEST_EXPONENT: Final = 30
"""Magnitudes outside 2^−30 … 2^30 count into the first and last bin."""

_BINS: Final = (LARGEST_EXPONENT - SMALLEST_EXPONENT) * BINS_PER_OCTAVE


@dataclass(slots=True)
class ActivationStatistics:
    """Magnitudes of one tensor [..., columns].

    ``largest`` is their maximum; ``counts`` a histogram over their logarithms, so that tensors need not be read twice;
    ``squares`` float64 [columns], each column's sum of squares; ``rows`` how many rows were seen.
    """

    columns: int
    largest: float = 0.0
    rows: int = 0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    squares: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.squares = np.zeros(self.columns)

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Count in one more tensor, [..., columns]."""
        rows = np.abs(values.reshape(-1, self.columns))
        self.rows += len(rows)
        self.largest = max(self.largest, float(rows.max(initial=0)))
        self.squares += np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
        magnitudes = rows[rows > 0]
        places = np.floor((np.log2(magnitudes) - SMALLEST_EXPONENT) * BINS_PER_OCTAVE).astype(np.int64)
        self.counts += np.bincount(places.clip(0, _BINS - 1), minlength=_BINS)

    def norms(self) -> npt.NDArray[np.float32]:
        """The Euclidean length of each column over all rows, float32 [columns]."""
        return np.sqrt(self.squares).astype(np.float32)

    def percentile(self, share: float) -> float:
        """The magnitude that ``share`` of all values that are not zero do not exceed, at most one bin too large."""
        total = int(self.counts.sum())
        if total == 0:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self.counts), share * total))
        return min(self.largest, float(bin_edges()[min(place, _BINS - 1) + 1]))


def bin_edges() -> npt.NDArray[np.float64]:
    """Bounds of the histogram's bins, [bins + 1]."""
    return np.asarray(np.exp2(SMALLEST_EXPONENT + np.arange(_BINS + 1) / BINS_PER_OCTAVE), dtype=np.float64)
