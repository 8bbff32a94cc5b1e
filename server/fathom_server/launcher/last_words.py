"""Why a server failed, where Kubernetes looks for it: the container's termination message."""

import contextlib
from pathlib import Path
from typing import Final

TERMINATION_LOG: Final = Path("/dev/termination-log")
"""Kubernetes' own ``terminationMessagePath``; there is such a file in its containers alone."""

MAX_BYTES: Final = 4096
"""What Kubernetes shows of it."""


def leave_last_words(file: Path | None, reason: str) -> None:
    """Write the reason as one line to ``file``, else to Kubernetes' own where there is one."""
    if file is None and not TERMINATION_LOG.is_file():
        return
    line = " ".join(reason.split()).encode()[:MAX_BYTES]
    with contextlib.suppress(OSError):  # the log has said it already
        (file or TERMINATION_LOG).write_bytes(line)
