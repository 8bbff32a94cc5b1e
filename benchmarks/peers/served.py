"""Our own server for a benchmark: ``fathom-serve`` over a repository, on free ports."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READY_S: Final = 120.0
STOP_S: Final = 40.0
_SAMPLE: Final = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is ready; ``pid`` is the launcher's, ``load_s`` the seconds from its start until it was ready."""

    pid: int
    load_s: float
    grpc_port: int
    http_port: int
    metrics_port: int

    @property
    def url(self) -> str:
        """Its gRPC address."""
        return f"127.0.0.1:{self.grpc_port}"

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value, summed over the series that have these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            text = answer.read().decode()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(sample["value"])
            for sample in _SAMPLE.finditer(text)
            if sample["name"] == name and all(label in (sample["labels"] or "") for label in wanted)
        )


@contextlib.contextmanager
def serve_repository(repository: Path, ready_s: float = READY_S) -> Iterator[Served]:
    """Start a server, wait until it is ready, ``ready_s`` at most, and end it in the end; its log goes to stderr."""
    with tempfile.TemporaryDirectory(prefix="fathom-bench-") as folder:
        ports_file = Path(folder) / "ports.json"
        command = [sys.executable, "-m", "fathom_server.cli", str(repository), "--ports", "auto"]
        command += ["--log-level", "warning", "--ports-file", str(ports_file)]
        began = time.perf_counter()
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        try:
            while not ports_file.exists():
                if server.poll() is not None or time.perf_counter() - began > ready_s:
                    raise SystemExit("error: fathom-serve did not become ready")
                time.sleep(0.01)
            load_s = time.perf_counter() - began
            ports = json.loads(ports_file.read_text(encoding="utf-8"))
            yield Served(server.pid, load_s, ports["grpc"], ports["http"], ports["metrics"])
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
