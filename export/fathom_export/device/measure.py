"""What a bundle takes of memory, measured by running it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fathom_export.errors import ExportError

PROBE: Final = Path(__file__).with_name("probe.py")


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Resident memory in bytes: of the libraries alone, and at most while the whole context was computed."""

    baseline_bytes: int
    peak_bytes: int


def measure(folder: Path) -> MemoryUse:
    """Run a bundle over its whole context; raises ExportError where it does not run at all."""
    run = _run(folder, 0)
    if run.returncode != 0:
        raise ExportError(f"the bundle does not run: {_last_line(run.stderr)}")
    said = json.loads(run.stdout)
    return MemoryUse(said["baseline_bytes"], said["peak_bytes"])


def runs_within(folder: Path, limit_bytes: int) -> bool:
    """Whether it runs where the system gives no more than so much private memory."""
    return _run(folder, limit_bytes).returncode == 0


def _run(folder: Path, limit_bytes: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(PROBE), str(folder), str(limit_bytes)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason was given"
