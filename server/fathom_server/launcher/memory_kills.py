"""Processes that the kernel ended since the start, because this one's control group was at its memory limit."""

from pathlib import Path
from typing import Final

GROUPS: Final = Path("/sys/fs/cgroup")
COUNTERS: Final = ("memory.events", "memory/memory.oom_control")
"""Version 2's and version 1's, where a container sees its own group."""

_KEY: Final = "oom_kill"
_REMEDY: Final = (
    "the kernel killed {count} of its processes for want of memory: raise the container's memory limit, or serve fewer "
    "or smaller models"
)


class MemoryKills:
    """Counts from when it is made; ``groups`` is where control groups are mounted."""

    def __init__(self, groups: Path = GROUPS) -> None:
        self._groups = groups
        self._before = self._count()

    def explained(self, reason: str) -> str:
        """The reason, and after it what the kernel did and how to mend it, if it did."""
        count = self._count() - self._before
        return reason if count <= 0 else f"{reason}; {_REMEDY.format(count=count)}"

    def _count(self) -> int:
        for name in COUNTERS:
            try:
                lines = (self._groups / name).read_text(encoding="utf-8").splitlines()
            except OSError:
                continue
            for line in lines:
                key, _, value = line.partition(" ")
                if key == _KEY and value.isdecimal():
                    return int(value)
        return 0
