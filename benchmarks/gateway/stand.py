"""What is measured: a gateway in front of a twin, whose model answers without computing, or of a real model."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

READY_S: Final = 180.0
MODEL: Final = "chat"
SOURCE: Final = Path(__file__).resolve().parents[2] / "examples" / "models" / "small"


@dataclass(frozen=True, slots=True)
class Stand:
    """A running gateway and the Triton behind it."""

    grpc_port: int
    gateway_port: int
    gateway: psutil.Process

    def rss_bytes(self) -> int:
        """Memory that the gateway holds."""
        rss: int = self.gateway.memory_info().rss
        return rss

    def processor_s(self) -> float:
        """Processor time that the gateway has used."""
        times = self.gateway.cpu_times()
        used: float = times.user + times.system
        return used


@contextlib.contextmanager
def twin_stand(*flags: str, settings: str = "") -> Iterator[Stand]:
    """A gateway with the lines of ``settings`` in front of a twin with these flags."""
    with (
        _folder() as folder,
        _triton(folder, "fathom_loadtest", "twin", *flags) as port,
        _gateway(folder, port, settings) as stand,
    ):
        yield stand


@contextlib.contextmanager
def model_stand() -> Iterator[Stand]:
    """A gateway in front of the smaller LLM of ``examples/models``, exported as it is."""
    with _folder() as folder:
        export = [sys.executable, "-m", "fathom_export.cli", str(SOURCE), "--name", MODEL, "--task", "generate"]
        export += ["--repository", str(folder / "repository"), "--quality", "off"]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
        with _triton(folder, "fathom_server.cli", str(folder / "repository")) as port, _gateway(folder, port) as stand:
            yield stand


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fathom-bench-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _triton(folder: Path, module: str, *arguments: str) -> Iterator[int]:
    """Run what serves a Triton; gives its gRPC port."""
    ports, log = folder / "ports.json", folder / "triton.log"
    command = [sys.executable, "-m", module, *arguments, "--ports", "auto", "--ports-file", str(ports)]
    with _process(command, log) as process:
        _wait(ports.exists, process, log)
        yield int(json.loads(ports.read_text())["grpc"])


@contextlib.contextmanager
def _gateway(folder: Path, grpc_port: int, settings: str = "") -> Iterator[Stand]:
    config, log, port = folder / "gateway.toml", folder / "gateway.log", _free_port()
    config.write_text(settings)
    command = [sys.executable, "-m", "fathom_server.gateway", "--target", f"127.0.0.1:{grpc_port}"]
    with _process([*command, "--port", str(port), "--config", str(config)], log) as process:
        _wait(lambda: _is_ready(port), process, log)
        yield Stand(grpc_port, port, psutil.Process(process.pid))


@contextlib.contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


def _wait(is_there: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while not is_there():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"error: {process.args!r} is not ready:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
