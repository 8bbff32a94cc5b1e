"""A real ``fathom-serve`` for a test: over a given repository, on free ports, ended for certain."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

START_S = 120.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's time limit ends a wait in vain."""
    while not condition():
        time.sleep(0.02)


@dataclass(slots=True)
class FathomServe:
    """A running ``fathom-serve``; a context manager that waits until it is ready and stops it.

    ``log`` is the folder of its ``stderr.txt``, ``triton.log`` and ports file. Further flags go in ``arguments``.
    """

    repository: Path
    log: Path
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    openai_port: int = 0

    def start(self) -> Self:
        """Start without waiting."""
        self.log.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fathom_server.cli", str(self.repository), "--ports", "auto"]
        command += ["--ports-file", str(self.ports_file), "--log-file", str(self.log / "triton.log"), *self.arguments]
        with (self.log / "stderr.txt").open("wb") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr)
        return self

    def wait_ready(self) -> Self:
        """Wait until every model is ready; fails the test with the log if that does not come."""
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while not self.ports_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"fathom-serve did not become ready:\n{self.stderr()[-6000:]}")
            time.sleep(0.05)
        ports = json.loads(self.ports_file.read_text())
        self.grpc_port, self.http_port, self.metrics_port = ports["grpc"], ports["http"], ports["metrics"]
        self.openai_port = ports.get("openai", 0)
        return self

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Ask it to stop, wait for the end, and give its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(timeout=60)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()

    def __enter__(self) -> Self:
        try:
            return self.start().wait_ready()
        except BaseException:  # a test's time limit, too: nothing is left behind
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def ports_file(self) -> Path:
        """Where the ports are once it is ready."""
        return self.log / "ports.json"

    @property
    def url(self) -> str:
        """Its gRPC address."""
        return f"127.0.0.1:{self.grpc_port}"

    def stderr(self) -> str:
        """What it has said so far, Triton's lines included."""
        return (self.log / "stderr.txt").read_text(errors="replace")

    def get(self, path: str, port: int | None = None) -> tuple[int, bytes]:
        """Status and body of an HTTP GET; status 0 if nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.http_port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def metric(self, name: str, model: str) -> float:
        """One of a model's metrics that has no labels but ``model``, as Triton's port tells it."""
        status, body = self.get("/metrics", self.metrics_port)
        assert status == 200
        lines = body.decode().splitlines()
        [value] = [line.split()[-1] for line in lines if line.startswith(f'{name}{{model="{model}"}}')]
        return float(value)

    def statistics(self, model: str) -> dict[str, Any]:
        """Triton's counts for one model."""
        status, body = self.get(f"/v2/models/{model}/stats")
        assert status == 200, body
        stats: dict[str, Any] = json.loads(body)["model_stats"][0]
        return stats

    def triton_processes(self) -> list[int]:
        """Processes of this repository's Triton, the server and its models' stubs, even if they lost their parent."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in (os.getpid(), self.pid):
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.repository.resolve()).encode() in command:
                    found.append(int(entry.name))
        return found

    @property
    def pid(self) -> int:
        """The launcher's process."""
        assert self.process is not None
        return self.process.pid
