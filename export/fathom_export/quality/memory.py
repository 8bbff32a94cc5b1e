"""How much memory judging may take, so that a large model is compared with less rather than ended by the system."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from fathom_export.decoder.checkpoint import Checkpoint

GIB: Final = 1 << 30

_MEMINFO: Final = Path("/proc/meminfo")
_GROUP: Final = Path("/sys/fs/cgroup")
_FLOAT32_BYTES: Final = 4
_COPIES_OF_A_GRAPH: Final = 2
"""ONNX Runtime keeps a packed copy of the weights beside those of the file."""
_SHARE: Final = 0.9


@dataclass(frozen=True, slots=True)
class JudgingPlan:
    """What of a card fits: the source model, our own fp32 graph, the comparison of layers; ``notes`` say what not."""

    with_source: bool
    with_own: bool
    with_layers: bool
    notes: tuple[str, ...]

    @classmethod
    def of(cls, source: Path, export_bytes: int, *, wants_source: bool, wants_own: bool, available: int | None) -> Self:
        """What fits into ``available`` bytes (None: nobody knows, so all), the most telling first.

        That is the source model; where it does not fit, our own fp32 graph; then both; then the layers.
        """
        parameters = sum(math.prod(tensor.shape) for tensor in Checkpoint.open(source).tensors.values())
        whole = parameters * _FLOAT32_BYTES
        room = math.inf if available is None else _SHARE * available
        used, notes = float(_COPIES_OF_A_GRAPH * export_bytes), []

        def fits(what: str, size: float) -> bool:
            nonlocal used
            if used + size <= room:
                used += size
                return True
            notes.append(
                f"{what}, for that takes {(used + size) / GIB:.1f} GiB of memory and {room / GIB:.1f} are to be had"
            )
            return False

        with_source = wants_source and fits("the source model", whole)
        with_own = (wants_own or not with_source) and fits("our own fp32 graph", _COPIES_OF_A_GRAPH * whole)
        # the fp32 graph once more, and the export whole and cut
        copies = _COPIES_OF_A_GRAPH * (whole + 2 * export_bytes)
        with_layers = with_own and fits("layers", copies)
        return cls(with_source, with_own, with_layers, tuple(notes))


def available_bytes() -> int | None:
    """Memory that this process can still take: the machine's, or what its control group leaves; None if unknown."""
    found = [value for value in (_machine_bytes(), _group_bytes()) if value is not None]
    return min(found, default=None)


def _machine_bytes() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _group_bytes() -> int | None:
    try:
        most, current = (
            (_GROUP / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current")
        )
        return None if most == "max" else max(0, int(most) - int(current))
    except (OSError, ValueError):
        return None
