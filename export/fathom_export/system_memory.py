"""How this process gets memory from the system."""

import ctypes
import sys
from typing import Final

_MMAP_THRESHOLD: Final = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE_BYTES: Final = 1 << 20


def give_large_blocks_back() -> None:
    """Have glibc give every block of a mebibyte and more back to the system as soon as it is freed.

    By itself it begins to keep them after the first was freed, and a process that takes and frees blocks of many sizes
    grows to several times what it holds. Does nothing where there is no glibc.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
