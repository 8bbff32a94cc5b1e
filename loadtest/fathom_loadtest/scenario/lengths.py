"""How long something is, in tokens (or turns): one number, or a distribution of them."""

import math
import random
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.scenario.key import Key, check_ranges

_MOST: Final = Key("longest that it may be; what is drawn above is cut", minimum=1)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same; in a file also written as the number alone."""

    TAG: ClassVar = ("distribution", "fixed")
    SHORTHAND: ClassVar = "length"

    length: Annotated[int, Key("the length", minimum=1)]

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def mean(self) -> float:
        """The expected value."""
        return float(self.length)

    @property
    def stddev(self) -> float:
        """The standard deviation."""
        return 0.0

    def sample(self, rng: random.Random) -> int:
        """Draw one length, at least 1."""
        return self.length


@dataclass(frozen=True, slots=True)
class Normal:
    """Normally distributed, never below 1."""

    TAG: ClassVar = ("distribution", "normal")

    mean: Annotated[float, Key("mean", minimum=1)]
    stddev: Annotated[float, Key("standard deviation", minimum=0)]
    most: Annotated[int | None, _MOST] = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def sample(self, rng: random.Random) -> int:
        """Draw one length, at least 1."""
        return _clip(rng.gauss(self.mean, self.stddev), self.most)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every length between two, both included, as likely as the others."""

    TAG: ClassVar = ("distribution", "uniform")

    low: Annotated[int, Key("shortest", minimum=1)]
    high: Annotated[int, Key("longest", minimum=1)]

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.high < self.low:
            raise ScenarioError(f"is {self.high}; it must not be below low ({self.low})", "high")

    @property
    def mean(self) -> float:
        """The expected value."""
        return (self.low + self.high) / 2

    @property
    def stddev(self) -> float:
        """The standard deviation."""
        return math.sqrt(((self.high - self.low + 1) ** 2 - 1) / 12)

    def sample(self, rng: random.Random) -> int:
        """Draw one length, at least 1."""
        return rng.randint(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Log-normally distributed: many short, few very long. Mean and deviation are those of the length itself."""

    TAG: ClassVar = ("distribution", "lognormal")

    mean: Annotated[float, Key("mean", minimum=1)]
    stddev: Annotated[float, Key("standard deviation", minimum=0)]
    most: Annotated[int | None, _MOST] = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def sample(self, rng: random.Random) -> int:
        """Draw one length, at least 1."""
        variance = math.log1p((self.stddev / self.mean) ** 2)
        return _clip(rng.lognormvariate(math.log(self.mean) - variance / 2, math.sqrt(variance)), self.most)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Distributed as a histogram says: bin n holds the lengths from edge n up to, not including, edge n + 1."""

    TAG: ClassVar = ("distribution", "histogram")

    edges: Annotated[tuple[int, ...], Key("edges of the bins, ascending, one more than there are bins", minimum=1)]
    weights: Annotated[tuple[float, ...], Key("how often each bin occurs, in any unit", minimum=0)]

    def __post_init__(self) -> None:
        check_ranges(self)
        if len(self.edges) != len(self.weights) + 1 or not self.weights:
            raise ScenarioError(
                f"has {len(self.edges)} values and weights has {len(self.weights)}; give one edge more than weights",
                "edges",
            )
        if any(high <= low for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ScenarioError(f"is {list(self.edges)}; every edge must lie above the one before", "edges")
        if not sum(self.weights) > 0:
            raise ScenarioError(f"is {list(self.weights)}; at least one weight must be above 0", "weights")

    @property
    def _bins(self) -> list[tuple[float, int, int]]:
        total = sum(self.weights)
        return [
            (weight / total, low, high - 1)
            for weight, low, high in zip(self.weights, self.edges, self.edges[1:], strict=False)
        ]

    @property
    def mean(self) -> float:
        """The expected value."""
        return sum(share * (low + high) / 2 for share, low, high in self._bins)

    @property
    def stddev(self) -> float:
        """The standard deviation."""
        squares = sum(
            share * (((high - low + 1) ** 2 - 1) / 12 + ((low + high) / 2) ** 2) for share, low, high in self._bins
        )
        return math.sqrt(max(0.0, squares - self.mean**2))

    def sample(self, rng: random.Random) -> int:
        """Draw one length, at least 1."""
        _, low, high = rng.choices(self._bins, self.weights)[0]
        return rng.randint(low, high)


Length = Fixed | Normal | Uniform | Lognormal | Histogram
"""A length: ``mean``, ``stddev``, ``sample(rng)``."""


def _clip(drawn: float, most: int | None) -> int:
    length = max(1, round(drawn))
    return length if most is None else min(length, most)
