"""A tritonserver without fathom-serve around it, for tests that kill it, give it odd models or flags of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tritonclient.grpc import InferenceServerClient

START_S = 120.0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wheel() -> Path:
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise RuntimeError("these tests need the tritonserver of nvidia-pytriton; install the development environment")
    return Path(spec.origin).parent


def _backends(folder: Path) -> Path:
    """Lay out the Python backend with the stub of this Python beside it."""
    server = _wheel() / "tritonserver"
    target = folder / "backends" / "python"
    if not target.exists():
        shutil.copytree(server / "backends" / "python", target)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copy2(server / "python_backend_stubs" / version / "triton_python_backend_stub", target)
    return target.parent


@dataclass(slots=True)
class Triton:
    """A running server; ``url`` is its gRPC address."""

    process: subprocess.Popen[bytes]
    grpc_port: int
    log: Path

    @property
    def url(self) -> str:
        """Address for a client."""
        return f"127.0.0.1:{self.grpc_port}"

    def successes(self, model: str) -> int:
        """How many requests for a model it has answered well, by its own count."""
        with InferenceServerClient(self.url) as client:
            (stats,) = client.get_inference_statistics(model).model_stats
            return int(stats.inference_stats.success.count)

    def kill(self) -> None:
        """End the server and its model processes at once, with no goodbye to anybody; may be called again."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End the server; streams that are still open do not hold it up."""
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()


def start(repository: Path, folder: Path, *arguments: str, grpc_port: int | None = None) -> Triton:
    """Start a server over ``repository`` with further flags; wait until it takes requests, whatever did not load."""
    http_port, grpc_free, metrics_port = free_ports(3)
    port = grpc_port or grpc_free
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "triton.log"
    wheel = _wheel()
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(wheel.parent / "nvidia_pytriton.libs"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                str(wheel / "tritonserver" / "bin" / "tritonserver"),
                f"--model-repository={repository}",
                f"--backend-directory={_backends(folder)}",
                f"--http-port={http_port}",
                f"--grpc-port={port}",
                f"--metrics-port={metrics_port}",
                "--grpc-address=127.0.0.1",
                "--http-address=127.0.0.1",
                "--metrics-address=127.0.0.1",
                "--exit-on-error=false",
                "--exit-timeout-secs=2",
                *arguments,
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    server = Triton(process, port, log)
    try:
        _wait(server)
    except BaseException:
        server.kill()
        raise
    return server


def _wait(server: Triton) -> None:
    deadline = time.monotonic() + START_S
    while b"Started GRPCInferenceService" not in server.log.read_bytes():
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"tritonserver did not start:\n{server.log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.05)
