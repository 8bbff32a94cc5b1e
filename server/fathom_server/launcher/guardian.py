"""A process beside Triton that ends it when the launcher dies without having done so (SIGKILL, out of memory).

It leads the process group of Triton and its Python models. Its standard input is a pipe from the launcher: when that
ends, it removes what the launcher would have removed and kills the group, itself included. A model that holds Python's
lock never notices that Triton is gone, so Triton's own death alone would not do.
"""

import os
import shutil
import signal
import sys
from pathlib import Path


def main() -> None:
    """Wait for the end of standard input, then clean up. Arguments: the run's folder, its shared memory's prefix."""
    folder, prefix = sys.argv[1:]
    sys.stdin.buffer.read()
    for region in Path("/dev/shm").glob(f"{prefix}*"):  # noqa: S108 (Triton's Python backend uses this very folder)
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
