"""What this machine's processor can do."""

from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")
VNNI_FLAGS: Final = frozenset(("avx512_vnni", "avx_vnni"))


def has_vnni() -> bool:
    """Whether this processor sums products of 8-bit numbers in 32 bits; False where nobody says."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not VNNI_FLAGS.isdisjoint(flags)
