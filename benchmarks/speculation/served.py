"""Measured from outside: models of a real server, over gRPC."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.speculation.contender import Answer
from benchmarks.speculation.workloads import Job

from fathom_client import Client

READY_S: Final = 180.0


class ServedContender:
    """A model of a server, over gRPC."""

    def __init__(self, client: Client, model: str) -> None:
        self.client, self.model = client, model

    def answer(self, job: Job) -> Answer:
        """Generate, streamed."""
        sampling, answer = job.sampling, Answer()
        options: dict[str, Any] = {"max_tokens": sampling.max_tokens, "ignore_eos": sampling.ignore_eos}
        if sampling.temperature:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        for chunk in self.client.stream(self.model, job.prompt_ids, **options):
            answer.add(chunk.token_ids)
        return answer

    def counts(self) -> tuple[int, int] | None:
        """Not known here."""
        return None

    def close(self) -> None:
        """Nothing to do: the server is stopped with all its models."""


@contextlib.contextmanager
def serving(repository: Path) -> Iterator[Client]:
    """A server of the repository, and a client of it."""
    with tempfile.TemporaryDirectory(prefix="fathom-speculation-") as folder:
        ports = Path(folder) / "ports.json"
        command = [sys.executable, "-m", "fathom_server.cli", str(repository), "--ports", "auto"]
        command += ["--log-level", "warning", "--ports-file", str(ports)]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + READY_S
            while not ports.exists():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("error: fathom-serve did not become ready")
                time.sleep(0.05)
            with Client(f"127.0.0.1:{json.loads(ports.read_text(encoding='utf-8'))['grpc']}", timeout=None) as client:
                yield client
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
