"""Service level objectives: what a request must keep to count as good."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from fathom_loadtest.errors import ScenarioError

SLO_NAMES: Final = ("ttft_ms", "itl_ms", "request_latency_ms")
"""Figures of one request that a service level objective can bound, all in milliseconds."""


@dataclass(frozen=True, slots=True)
class Slo:
    """Service level objective: ``name`` (one of SLO_NAMES) of a request is at most ``limit_ms``."""

    name: str
    limit_ms: float

    def __post_init__(self) -> None:
        if self.name not in SLO_NAMES:
            raise ScenarioError(f"{self.name!r} is no SLO; valid: {', '.join(SLO_NAMES)}")
        if not 0 < self.limit_ms < float("inf"):
            raise ScenarioError(f"SLO {self.name}={self.limit_ms} is out of range; it must be above 0 milliseconds")

    @classmethod
    def parse(cls, text: str) -> tuple[Self, ...]:
        """Read ``ttft_ms=200,itl_ms=20``; raises ScenarioError naming the part that is wrong."""
        slos: dict[str, Self] = {}
        for part in text.split(","):
            name, separator, value = part.strip().partition("=")
            try:
                limit_ms = float(value)
            except ValueError:
                separator = ""
            if not separator:
                raise ScenarioError(f"SLO {part.strip()!r} is not NAME=MILLISECONDS, for example ttft_ms=200")
            if name in slos:
                raise ScenarioError(f"SLO {name} is given twice; give it once")
            slos[name] = cls(name, limit_ms)
        return tuple(slos.values())

    @classmethod
    def read(cls, table: object) -> tuple[Self, ...]:
        """Read a TOML table of names and milliseconds; raises ScenarioError."""
        if not isinstance(table, Mapping):
            raise ScenarioError(f"is {table!r}; it must be a table such as {{ ttft_ms = 200 }}")
        slos = []
        for name, limit in table.items():
            if name not in SLO_NAMES:
                raise ScenarioError(f"is no SLO; valid: {', '.join(SLO_NAMES)}", name)
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < float("inf"):
                raise ScenarioError(f"is {limit!r}; it must be a number of milliseconds above 0", name)
            slos.append(cls(name, float(limit)))
        return tuple(slos)
