"""What this machine's processor can do."""

from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")
VNNI_FLAGS: Final = frozenset(("avx512_vnni", "avx_vnni"))


def has_vnni() -> bool:
    """Whether this processor sums products of 8-bit numbers in 32 bits; False where nobody says."""
    return not VNNI_FLAGS.isdisjoint(_flags())


def has_avx2() -> bool:
    """Whether this processor has what Fathom's operators are fast with; False where nobody says."""
    return "avx2" in _flags()


def _flags() -> list[str]:
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
