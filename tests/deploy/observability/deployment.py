"""A small deployment to look at: one LLM and the gateway."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.serving import FathomServe

SMALL = Path(__file__).parents[3] / "examples" / "models" / "small"


def export_small(folder: Path) -> Path:
    """The repository of ``chat``, our smallest LLM."""
    command = [sys.executable, "-m", "fathom_export.cli", str(SMALL), "--name", "chat", "--task", "generate"]
    command += ["--precision", "int8", "--quality", "off", "--repository", str(folder / "repository")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "repository"


@contextmanager
def deployment(folder: Path, *arguments: str) -> Iterator[FathomServe]:
    """It runs, with a gateway; ``arguments`` are further flags of fathom-serve."""
    with FathomServe(export_small(folder), folder / "serve", ("--openai-port", *arguments)) as running:
        yield running
