"""A server to ask: a running one, or one that is started for the time of a calibration."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fathom_export.errors import CalibrationError

START_S: Final = 600.0
STOP_S: Final = 60.0
_POLL_S: Final = 0.1
_LOG_LINES: Final = 5


@contextlib.contextmanager
def served(repository: Path) -> Iterator[str]:
    """Start ``fathom-serve`` over a repository; gives its gRPC address, and stops it however the block ends.

    Raises CalibrationError with its last words where it does not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="fathom-calibrate-") as folder:
        ports, log = Path(folder) / "ports.json", Path(folder) / "serve.log"
        command = [sys.executable, "-m", "fathom_server.cli", str(repository), "--ports", "auto"]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--ports-file", str(ports)], stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        try:
            deadline = time.monotonic() + START_S
            while not ports.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    lines = [line for line in log.read_text(errors="replace").splitlines() if "fathom-serve:" in line]
                    raise CalibrationError(
                        f"the server of {repository} did not become ready: {' '.join(lines[-_LOG_LINES:])}"
                    )
                time.sleep(_POLL_S)
            yield f"127.0.0.1:{json.loads(ports.read_text())['grpc']}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
