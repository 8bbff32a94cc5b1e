"""A real ``fathom-load twin`` for a test: on free ports, ended for certain."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

START_S = 120.0


@dataclass(slots=True)
class TwinServer:
    """A running twin; a context manager that waits until it is ready and stops it. Flags go in ``arguments``."""

    folder: Path
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    ports: dict[str, int] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fathom_loadtest", "twin", "--ports", "auto", *self.arguments]
        with (self.folder / "stderr.txt").open("wb") as stderr, (self.folder / "stdout.txt").open("wb") as stdout:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        deadline = time.monotonic() + START_S
        while not (line := (self.folder / "stdout.txt").read_text()).endswith("\n"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
                pytest.fail(f"the twin did not become ready:\n{self.stderr()[-6000:]}")
            time.sleep(0.05)
        self.ports = json.loads(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

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

    @property
    def url(self) -> str:
        """Its gRPC address."""
        assert self.ports is not None
        return f"127.0.0.1:{self.ports['grpc']}"

    def stderr(self) -> str:
        """What it has said so far."""
        return (self.folder / "stderr.txt").read_text(errors="replace")

    def metrics(self, model: str) -> dict[str, float]:
        """Every ``fathom_`` sample of a model: name and labels but the model's → value."""
        assert self.ports is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}/metrics") as answer:
            text = answer.read().decode()
        samples = {}
        for name, labels, value in re.findall(r"^(fathom_\w+)\{([^}]*)\} (\S+)$", text, re.MULTILINE):
            given = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if given.pop("model") == model:
                rest = ",".join(f"{key}={each}" for key, each in sorted(given.items()))
                samples[f"{name}{{{rest}}}" if rest else name] = float(value)
        return samples

    def settled(self, model: str, expected: dict[str, float]) -> dict[str, float]:
        """The samples once each of ``expected`` has its value; the test's time limit ends a wait in vain."""
        deadline = time.monotonic() + 30
        while not expected.items() <= (samples := self.metrics(model)).items():
            wrong = {name: samples.get(name) for name, value in expected.items() if samples.get(name) != value}
            assert time.monotonic() < deadline, f"{wrong}, not {expected}"
            time.sleep(0.02)
        return samples

    def ask(self, model: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The events of ``generate_stream``, errors among them; keys that are no input travel as request parameters."""
        assert self.ports is not None
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['http']}/v2/models/{model}/generate_stream", json.dumps(body).encode()
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as refused:  # the first event is an error: it is the status, too
            text = refused.read()
        lines = (line.removeprefix("data: ") for line in text.decode().splitlines())
        return [json.loads(line) for line in lines if line]
