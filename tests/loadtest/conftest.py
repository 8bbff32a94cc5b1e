"""A real Triton server with models whose pace and counts are known."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.loadtest.twin_server import TwinServer

from fathom_client import protocol

MODELS = Path(__file__).parent / "models"
PACED_TTFT_MS = 30
PACED_ITL_MS = 4


@dataclass
class Triton:
    """A running server: where it listens, and what its models saw."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    counts_file: Path
    log: Path
    ttft_ms: int = PACED_TTFT_MS

    @property
    def url(self) -> str:
        """Address of the gRPC endpoint."""
        return f"127.0.0.1:{self.grpc_port}"

    def statistics(self, model: str) -> dict[str, Any]:
        """Triton's own statistics of a model."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/v2/models/{model}/stats") as answer:
            return json.load(answer)["model_stats"][0]

    def counts(self) -> dict[str, int]:
        """What the paced model says that it did."""
        return json.loads(self.counts_file.read_text())

    def seen(self) -> list[dict[str, Any]]:
        """Everything that the paced model was asked so far, in the order in which it came."""
        file = self.counts_file.with_name("seen.jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def kill(self) -> None:
        """End the server and its model processes at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _write_config(folder: Path, inputs: Any, outputs: Any, *, decoupled: bool, parameters: Mapping[str, str]) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig(name=folder.name, backend="python", max_batch_size=0 if decoupled else 32)
    config.model_transaction_policy.decoupled = decoupled
    for specs, added in ((inputs, config.input), (outputs, config.output)):
        for spec in specs:
            tensor = added.add(name=spec.name, dims=spec.dims)
            tensor.data_type = model_config_pb2.DataType.Value(f"TYPE_{spec.datatype.replace('BYTES', 'STRING')}")
            if specs is inputs:
                tensor.optional = spec.optional
    for name, value in parameters.items():
        config.parameters[name].string_value = value
    if not decoupled:
        config.dynamic_batching.max_queue_delay_microseconds = 0
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))


def _write_repository(folder: Path, counts_file: Path) -> None:
    shutil.copytree(MODELS, folder)
    pace = {"ttft_ms": str(PACED_TTFT_MS), "itl_ms": str(PACED_ITL_MS), "counts_file": str(counts_file)}
    _write_config(
        folder / "paced", protocol.GENERATE_INPUTS, protocol.GENERATE_OUTPUTS, decoupled=True, parameters=pace
    )
    vectors = (
        protocol.TensorSpec(protocol.SENTENCE_EMBEDDING, "FP32", (8,)),
        protocol.TensorSpec(protocol.NUM_INPUT_TOKENS, "UINT32", (1,)),
    )
    _write_config(folder / "vectors", protocol.EMBED_INPUTS, vectors, decoupled=False, parameters={})


def _assemble_backend(folder: Path) -> Path:
    """Lay the wheel's Python backend and the stub of this Python side by side; gives the server's binary."""
    import pytriton

    wheel = Path(pytriton.__file__).parent / "tritonserver"
    shutil.copytree(wheel / "backends" / "python", folder / "python")
    stub = wheel / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(stub / "triton_python_backend_stub", folder / "python")
    return wheel / "bin" / "tritonserver"


def _start(folder: Path) -> Triton:
    """Start a server under ``folder`` and wait until it is ready."""
    import pytriton

    counts_file, log = folder / "counts.json", folder / "triton.log"
    _write_repository(folder / "repository", counts_file)
    binary = _assemble_backend(folder / "backends")
    http_port, grpc_port = _free_ports(2)
    libraries = Path(pytriton.__file__).parent.parent / "nvidia_pytriton.libs"
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(libraries),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [
        str(binary), f"--model-repository={folder / 'repository'}", f"--backend-directory={folder / 'backends'}",
        "--http-address=127.0.0.1", f"--http-port={http_port}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}",
        "--allow-metrics=false", "--exit-timeout-secs=1",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{http_port}/v2/health/ready").close()
            return Triton(process, http_port, grpc_port, counts_file, log)
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(f"tritonserver did not become ready:\n{log.read_text()[-4000:]}") from None
            time.sleep(0.2)


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """One server for the session."""
    server = _start(tmp_path_factory.mktemp("triton"))
    yield server
    server.kill()


@pytest.fixture
def start_triton() -> Callable[[Path], Triton]:
    """Start a server under a folder, for a test that ends it."""
    return _start


TWIN = """
seed = 3

[[models]]
ttft_ms = 20
itl_ms = 2
output_tokens = 12

[[models]]
name = "tight"
ttft_ms = 20
itl_ms = 5
output_tokens = 12
max_batch = 2
max_queue = 2

[[models]]
name = "flaky"
ttft_ms = 20
itl_ms = 2
output_tokens = 12
max_batch = 64
errors = { INTERNAL = 0.15, INVALID_ARGUMENT = 0.1 }
stall_rate = 0.15
break_rate = 0.15
cut_rate = 0.15

[[models]]
name = "minilm"
task = "embed"
errors = {}

[[models]]
name = "ranker"
task = "rerank"
latency_ms = "normal:2,1"

[[models]]
name = "moods"
task = "classify"
labels = ["bad", "good", "odd"]
"""


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwinServer]:
    """One twin for the session, of models that are well, tight and flaky; a test leaves it idle."""
    folder = tmp_path_factory.mktemp("twin")
    (folder / "twin.toml").write_text(TWIN)
    with TwinServer(folder, ("--config", str(folder / "twin.toml"))) as running:
        yield running
