"""The client's types, as an application's type checker sees them."""

import re
import subprocess
import sys
from pathlib import Path

import fathom_client

SNIPPET = Path(__file__).with_name("typed_snippet.py")


def test_types_are_what_applications_rely_on(tmp_path: Path) -> None:
    """A strict mypy agrees with every assert_type of the snippet, and finds each of its mistakes, and nothing else."""
    marker = Path(fathom_client.__file__).with_name("py.typed")
    assert marker.exists()
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(SNIPPET)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    found = {
        (int(line), code) for line, code in re.findall(rf"{SNIPPET.name}:(\d+): error: .*  \[([a-z-]+)\]", done.stdout)
    }
    marked = {
        (number, match[1])
        for number, line in enumerate(SNIPPET.read_text(encoding="utf-8").splitlines(), 1)
        if (match := re.search(r"# E: ([a-z-]+)$", line))
    }
    assert found == marked, done.stdout
    assert len(marked) >= 7
