"""Runs of ``fathom-load run`` for tests: started, waited for, and what they left."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fathom_loadtest.recorder import RequestRecord, load_records


class Server(Protocol):
    """Whatever listens."""

    @property
    def url(self) -> str:
        """Address of the gRPC endpoint."""
        ...


@dataclass
class Finished:
    """A run that is over: exit status, output, and what it left."""

    status: int
    stdout: str
    stderr: str
    report: dict[str, Any]
    records: list[RequestRecord]

    def figures(self, stage: int = 0) -> dict[str, Any]:
        """The figures of a stage."""
        return self.report["stages"][stage]["figures"]


def start(server: Server, output: Path, arguments: Sequence[object]) -> "subprocess.Popen[str]":
    """Start the command."""
    command = [sys.executable, "-m", "fathom_loadtest", "run", "--url", server.url, "--output", str(output)]
    command += map(str, arguments)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=output.parent)


def finish(process: "subprocess.Popen[str]", output: Path) -> Finished:
    """Wait for its end, and read what it left."""
    try:
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (output / "report.html").exists(), stderr
    report = json.loads((output / "report.json").read_text())
    return Finished(process.returncode, stdout, stderr, report, load_records(output / "requests.jsonl"))


def run(server: Server, output: Path, arguments: Sequence[object]) -> Finished:
    """Run the command to its end."""
    return finish(start(server, output, arguments), output)


def write_prompts(folder: Path, *texts: str) -> Path:
    """Write a prompt set."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return path
