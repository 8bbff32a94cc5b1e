"""What a deployment is asked for: lengths, how many requests, and how long they may take."""

import math
from dataclasses import dataclass, fields
from typing import Final, Self

from fathom_export.errors import FitError

MOST_TOKENS: Final = 1 << 24
MOST_RATE: Final = 1e6


@dataclass(frozen=True, slots=True)
class Objectives:
    """SLOs in milliseconds, under the names of the load test's figures; None where there is none."""

    ttft_ms: float | None = None
    itl_ms: float | None = None
    request_latency_ms: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``ttft_ms=500,itl_ms=50``; raises FitError naming the part that is wrong."""
        names = [field.name for field in fields(cls)]
        values: dict[str, float] = {}
        for part in text.split(","):
            name, _, given = part.partition("=")
            name = name.strip()
            if name not in names:
                raise FitError(
                    f"--slo {part!r} names no figure; write {', '.join(f'{known}=NUMBER' for known in names)}"
                )
            if name in values:
                raise FitError(f"--slo gives {name} twice; keep one")
            values[name] = _positive(given, f"--slo {name}")
        return cls(**values)

    def given(self) -> dict[str, float]:
        """Those that there are, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def missed(self, ttft_ms: float, itl_ms: float, generated_tokens: int) -> dict[str, float]:
        """What these times miss: the figure's value by name."""
        found = {
            "ttft_ms": ttft_ms,
            "itl_ms": itl_ms,
            "request_latency_ms": ttft_ms + itl_ms * (generated_tokens - 1),
        }
        return {name: found[name] for name, bound in self.given().items() if found[name] > bound}


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests of ``prompt_tokens`` and ``generated_tokens``; so many ``requests`` at once, or a ``rate`` a second."""

    prompt_tokens: int = 512
    generated_tokens: int = 128
    requests: int | None = None
    rate: float | None = None
    objectives: Objectives = Objectives()

    def __post_init__(self) -> None:
        for flag, tokens in (("--input-tokens", self.prompt_tokens), ("--output-tokens", self.generated_tokens)):
            if not 1 <= tokens <= MOST_TOKENS:
                raise FitError(f"{flag} is {tokens}; give a number from 1 to {MOST_TOKENS}")
        if self.requests is not None and not 1 <= self.requests <= MOST_TOKENS:
            raise FitError(f"--requests is {self.requests}; give a number from 1 to {MOST_TOKENS}")
        if self.rate is not None and not 0 < self.rate <= MOST_RATE:
            raise FitError(f"--rate is {self.rate:g}; give requests a second, above 0 and up to {MOST_RATE:g}")
        if self.rate is not None and self.requests is not None:
            raise FitError("--requests and --rate are both given; requests at once follow from a rate: keep one")

    @property
    def context(self) -> int:
        """Tokens of a request in the end."""
        return self.prompt_tokens + self.generated_tokens


def _positive(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise FitError(f"{what} is {text!r}; give a number of milliseconds above 0")
    return value
