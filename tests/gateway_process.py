"""A real ``fathom-gateway`` for a test: a process in front of a given Triton, on a free port, ended for certain."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

START_S = 60.0
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; headers have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object, which must be whole."""
        error: dict[str, Any] = self.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["message"]
        return error


@dataclass(slots=True)
class GatewayProcess:
    """A running gateway; a context manager that waits until it listens and stops it. ``settings`` go into its TOML."""

    target: str
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    is_stopping: bool = False

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "gateway.toml"
        config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in self.settings.items()))
        self.port = free_port()
        command = [sys.executable, "-m", "fathom_server.gateway", "--target", self.target]
        command += ["--port", str(self.port), "--config", str(config)]
        with (self.folder / "log.jsonl").open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, cwd=Path.cwd())
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.ask("GET", "/health/live")
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    pytest.fail(f"the gateway did not start:\n{(self.folder / 'log.jsonl').read_text()[-4000:]}")
                time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def ask_to_stop(self, signum: int = signal.SIGTERM) -> None:
        """Send a signal without waiting; a second SIGTERM is not sent, since it would end running answers."""
        if self.process is not None and self.process.poll() is None and not self.is_stopping:
            self.is_stopping = True
            self.process.send_signal(signum)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Ask it to stop, wait for the end, and give its exit status."""
        assert self.process is not None
        self.ask_to_stop(signum)
        try:
            return self.process.wait(timeout=60)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        *,
        key: str | None = None,
    ) -> Answer:
        """One request on a connection of its own; a mapping goes as JSON."""
        given = {} if key is None else {"Authorization": f"Bearer {key}"}
        if isinstance(body, dict):
            body, given = json.dumps(body).encode(), given | {"Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, given | (headers or {}))
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def metric(self, name: str, *, key: str | None = None, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        total = 0.0
        for line in self.ask("GET", "/metrics", key=key).body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{each}="{labels[each]}"' in series for each in labels):
                total += float(value)
        return total

    def logged(self, request_id: str) -> dict[str, Any]:
        """The line of a request, which is written after its answer."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for line in self.log():
                if line.get("request_id") == request_id:
                    return line
            assert time.monotonic() < deadline, f"no line of request {request_id} was logged"
            time.sleep(0.05)

    def log(self) -> list[dict[str, Any]]:
        """The lines of its log so far, each of which must be JSON."""
        whole, _, _ = (self.folder / "log.jsonl").read_text().rpartition("\n")
        return [json.loads(line) for line in whole.split("\n") if line]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
