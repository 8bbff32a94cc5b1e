"""What was measured, as one JSON and as a few lines to read."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Speed:
    """One shape of step: every run's seconds of ours and transformers', and the roofline's."""

    model: str
    precision: str
    kind: str
    batch: int
    tokens: int
    ours_s: Sequence[float]
    transformers_s: Sequence[float]
    floor_s: float

    @property
    def ratio(self) -> float | None:
        """Transformers' time over ours, medians; None where either was not measured."""
        if not self.ours_s or not self.transformers_s:
            return None
        return statistics.median(self.transformers_s) / statistics.median(self.ours_s)

    @property
    def of_roofline(self) -> float | None:
        """The share of the chip's bandwidth or arithmetic that ours reaches."""
        return self.floor_s / statistics.median(self.ours_s) if self.ours_s else None


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run on one machine; ``faults`` are what could not be measured, and why."""

    created: str
    commit: str
    gpu: str
    versions: dict[str, str]
    chip: dict[str, float]
    parity: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    speed: tuple[Speed, ...] = ()
    faults: tuple[str, ...] = ()

    def save(self, folder: Path) -> Path:
        """Write ``gpu-<date>.json``; gives its path."""
        content = asdict(self)
        for entry, speed in zip(content["speed"], self.speed, strict=True):
            entry |= {"ratio": _rounded(speed.ratio), "of_roofline": _rounded(speed.of_roofline)}
        path = folder / f"gpu-{self.created[:10]}.json"
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return path

    def lines(self) -> list[str]:
        """A line for each shape of step."""
        return [
            f"{self.gpu}: {self.chip}",
            *map(_line, self.speed),
            *(f"not measured: {fault}" for fault in self.faults),
        ]


def _line(speed: Speed) -> str:
    what = f"{speed.model} {speed.precision} {speed.kind} batch {speed.batch}, {speed.tokens} tokens"
    if not speed.ours_s:
        return f"{what}: not measured"
    ratio = "" if speed.ratio is None else f", {speed.ratio:.2f} times transformers"
    return f"{what}: {statistics.median(speed.ours_s) * 1e3:.2f} ms{ratio}, {speed.of_roofline:.0%} of the roofline"


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
