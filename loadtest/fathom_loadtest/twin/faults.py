"""What goes wrong at the twin, and how often: refusals by gRPC code, stalls, answers that break off."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from fathom_loadtest.errors import TwinError

ERROR_CODES: Final[Mapping[str, str]] = {
    "CANCELLED": "CANCELLED",
    "UNKNOWN": "UNKNOWN",
    "INVALID_ARGUMENT": "INVALID_ARG",
    "DEADLINE_EXCEEDED": "CANCELLED",
    "NOT_FOUND": "NOT_FOUND",
    "ALREADY_EXISTS": "ALREADY_EXISTS",
    "UNIMPLEMENTED": "UNSUPPORTED",
    "INTERNAL": "INTERNAL",
    "UNAVAILABLE": "UNAVAILABLE",
}
"""gRPC codes that a model of Triton's can give → the name of each in ``pb_utils.TritonError``.

Triton has no word for a missed deadline: it goes as CANCELLED with the prefix that ``fathom_client.protocol`` names.
"""

FaultKind = Literal["stall", "break", "cut"]
"""``stall``: silence. ``break``: the error INTERNAL instead of the rest. ``cut``: the stream ends without its end."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls one answer after its first ``after_tokens`` tokens."""

    kind: FaultKind
    after_tokens: int


@dataclass(frozen=True, slots=True)
class FaultRates:
    """Shares of requests, 0 to 1.

    ``errors`` are refused at once, by gRPC code. Of the other requests ``stall_rate``, ``break_rate`` and ``cut_rate``
    meet a fault after a part of their answer, at a token drawn evenly from the whole of it.
    """

    errors: Mapping[str, float]
    stall_rate: float = 0.0
    break_rate: float = 0.0
    cut_rate: float = 0.0

    def __post_init__(self) -> None:
        for code in self.errors:
            check_code(code)
        rates = {
            **{f"errors.{code}": rate for code, rate in self.errors.items()},
            "stall_rate": self.stall_rate,
            "break_rate": self.break_rate,
            "cut_rate": self.cut_rate,
        }
        for name, rate in rates.items():
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise TwinError(f"{name} is {rate!r}; it must be a share from 0 to 1")
        for what, total in (
            ("errors", sum(self.errors.values())),
            ("stall_rate, break_rate and cut_rate", self.stall_rate + self.break_rate + self.cut_rate),
        ):
            if total > 1 + 1e-9:
                raise TwinError(f"{what} add up to {total:g}; together they can be at most 1")

    def draw_error(self, rng: random.Random) -> str | None:
        """Draw the code by which a request is refused, None for one that is answered."""
        return _pick(rng.random(), self.errors) if self.errors else None

    def draw_fault(self, rng: random.Random, tokens: int) -> Fault | None:
        """Draw what befalls an answer of so many tokens."""
        chance, place = rng.random(), rng.randrange(max(1, tokens))
        kind: FaultKind
        for kind, rate in (("stall", self.stall_rate), ("break", self.break_rate), ("cut", self.cut_rate)):
            if chance < rate:
                return Fault(kind, place)
            chance -= rate
        return None


def check_code(code: object) -> str:
    """Give the code back; raises TwinError if no model of Triton's can answer with it."""
    if not isinstance(code, str) or code not in ERROR_CODES:
        raise TwinError(f"{code!r} is no gRPC code that Triton gives; valid: {', '.join(ERROR_CODES)}")
    return code


def _pick(chance: float, shares: Mapping[str, float]) -> str | None:
    for name, share in shares.items():
        if chance < share:
            return name
        chance -= share
    return None
