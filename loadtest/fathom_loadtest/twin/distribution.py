"""A figure that the twin is told: the same every time, or drawn around a mean."""

import math
import random
from dataclasses import dataclass
from typing import Final, Literal, Self, get_args

from fathom_loadtest.errors import TwinError

Kind = Literal["constant", "normal", "lognormal"]
_FORM: Final = "a number, normal:MEAN,STDDEV or lognormal:MEAN,STDDEV"


@dataclass(frozen=True, slots=True)
class Distribution:
    """``mean`` and ``stddev`` are those of the values themselves, in the setting's own unit, lognormal ones too.

    Values below 0 are drawn as 0. Raises TwinError for a mean or deviation that is negative or no number.
    """

    mean: float
    stddev: float = 0.0
    kind: Kind = "constant"

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("standard deviation", self.stddev)):
            if not 0 <= value < math.inf:
                raise TwinError(f"{value:g} is out of range; a {name} must be 0 or more")
        if self.kind == "lognormal" and not self.mean:
            raise TwinError("a lognormal distribution has a mean above 0")

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a number or ``KIND:MEAN,STDDEV``; raises TwinError saying what the value must be."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return cls(float(value))
        if not isinstance(value, str):
            raise TwinError(f"{value!r} is not {_FORM}")
        kind, colon, numbers = value.rpartition(":")
        try:
            parts = [float(number) for number in numbers.split(",")]
        except ValueError:
            parts = []
        if not colon and len(parts) == 1:
            return cls(parts[0])
        if kind not in get_args(Kind)[1:] or len(parts) != 2:
            raise TwinError(f"{value!r} is not {_FORM}")
        return cls(parts[0], parts[1], "normal" if kind == "normal" else "lognormal")

    def __str__(self) -> str:
        return f"{self.mean:g}" if self.kind == "constant" else f"{self.kind}:{self.mean:g},{self.stddev:g}"

    @property
    def median(self) -> float:
        """The median of the values (of normal ones, as if none were below 0)."""
        return math.exp(self._logarithm()[0]) if self.kind == "lognormal" else self.mean

    def draw(self, rng: random.Random) -> float:
        """Draw one value."""
        if self.kind == "constant":
            return self.mean
        if self.kind == "normal":
            return max(0.0, rng.gauss(self.mean, self.stddev))
        return rng.lognormvariate(*self._logarithm())

    def _logarithm(self) -> tuple[float, float]:
        """Mean and standard deviation of the logarithm."""
        variance = math.log1p((self.stddev / self.mean) ** 2)
        return math.log(self.mean) - variance / 2, math.sqrt(variance)
