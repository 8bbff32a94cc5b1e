"""``fathom-serve`` over the twin's repository: started as a process, asked to stop when this one is."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Final

from fathom_loadtest.errors import TwinError

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG: Final = 1


def check_launcher() -> None:
    """Raise TwinError if ``fathom-serve`` is not installed beside ``fathom-load``."""
    if find_spec("fathom_server") is None:
        raise TwinError(
            "fathom-serve is not installed here; pip install 'fathom-server[embedded]', or write the repository with "
            "--write-only DIR and serve it where fathom-server and fathom-loadtest both are"
        )


def serve_twin(repository: Path, flags: Sequence[str]) -> int:
    """Run ``fathom-serve`` to its end, handing on the signals that ask this process to stop; gives its exit status.

    It prints its ports on stdout when the models are ready. It is in a process group of its own, so that Ctrl-C in a
    terminal reaches it once, and it is asked to stop even if this process is killed. For the main thread.
    """
    command = [sys.executable, "-m", "fathom_server.cli", str(repository), *flags]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    before = {}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=lambda: _begin(blocked),
        )

        def hand_on(number: int, _frame: FrameType | None) -> None:
            process.send_signal(number)

        before = {number: signal.signal(number, hand_on) for number in _STOP_SIGNALS}
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return process.wait()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)


def _begin(mask: set[int | signal.Signals]) -> None:
    """In the new process: have the system stop it with its parent, and take signals again."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
