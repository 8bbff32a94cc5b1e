"""How much memory this process may ever use: the machine's, or less where a control group says so."""

from pathlib import Path
from typing import Final

MEMINFO: Final = Path("/proc/meminfo")
OWN_GROUPS: Final = Path("/proc/self/cgroup")
GROUPS: Final = Path("/sys/fs/cgroup")


def memory_limit(meminfo: Path = MEMINFO, own_groups: Path = OWN_GROUPS, groups: Path = GROUPS) -> int | None:
    """Bytes of the machine's memory, or the lowest limit of this process's control groups; None if nobody says.

    Version 2's ``memory.max`` and version 1's ``memory.limit_in_bytes`` count, of the process's own group and of every
    group above it. Inside a container the own group is the mount's root.
    """
    found = [limit for limit in (_machine(meminfo), *_group_limits(own_groups, groups)) if limit is not None]
    return min(found, default=None)


def _machine(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemTotal:")), None)


def _group_limits(own_groups: Path, groups: Path) -> list[int | None]:
    try:
        lines = own_groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    roots = [(groups, "memory.max", "/"), (groups / "memory", "memory.limit_in_bytes", "/")]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            roots.append((groups, "memory.max", path))
        elif "memory" in controllers.split(","):
            roots.append((groups / "memory", "memory.limit_in_bytes", path))
    limits: list[int | None] = []
    for root, name, path in roots:
        parts = [part for part in path.split("/") if part not in ("", "..")]
        limits += [_limit(root.joinpath(*parts[:depth]) / name) for depth in range(len(parts) + 1)]
    return limits


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
        return int(text) if text != "max" else None
    except (OSError, ValueError):
        return None
