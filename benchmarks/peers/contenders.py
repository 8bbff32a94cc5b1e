"""Who takes part, and the process that each of them lives in."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

from benchmarks.peers import environments, machine
from benchmarks.peers.environments import UnavailableError
from benchmarks.peers.workers.line_protocol import Answer, Job

WORKERS: Final = Path(__file__).resolve().parent / "workers"
MODEL: Final = "chat"
MAX_CONTEXT: Final = 1024
CACHE_TOKENS: Final = 16 * 320
"""What all sequences of a Fathom server share: 320 tokens for each of 16."""
THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the table. ``prepare`` makes what it needs below the cache folder, and gives its worker's command."""

    name: str
    precision: str
    api: str
    prepare: Callable[[Path, Path], Sequence[str | Path]]
    versions: Callable[[], dict[str, str]]
    profile: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it is one of Fathom's profiles."""
        return bool(self.profile)


def _fathom(profile: str) -> Callable[[Path, Path], Sequence[str | Path]]:
    def prepare(cache: Path, checkpoint: Path) -> Sequence[str | Path]:
        repository = cache / "fathom" / f"{profile}-{checkpoint.name}"
        command = [sys.executable, "-m", "fathom_export.cli", str(checkpoint), "--repository", str(repository)]
        command += ["--task", "generate", "--name", MODEL, "--profile", profile, "--threads", str(THREADS)]
        command += ["--max-batch", "16", "--max-queue", "1024", "--max-context", str(MAX_CONTEXT), "--quality", "off"]
        command += ["--kv-cache-tokens", str(CACHE_TOKENS)]
        command += ["--force"]  # what is measured is this code, whatever its version says
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnavailableError(f"fathom-export failed: {done.stderr.strip()[-1000:]}")
        return [sys.executable, "-m", "benchmarks.peers.workers.fathom_worker", str(repository), MODEL]

    return prepare


def _genai(cache: Path, checkpoint: Path) -> Sequence[str | Path]:
    python = environments.environment(cache, "onnxruntime-genai")
    return [python, WORKERS / "onnxruntime_genai_worker.py", environments.genai_model(cache, checkpoint)]


def _openvino(precision: str) -> Callable[[Path, Path], Sequence[str | Path]]:
    def prepare(cache: Path, checkpoint: Path) -> Sequence[str | Path]:
        python = environments.environment(cache, "openvino-genai")
        return [python, WORKERS / "openvino_worker.py", environments.openvino_model(cache, checkpoint, precision)]

    return prepare


def _llama_cpp(precision: str) -> Callable[[Path, Path], Sequence[str | Path]]:
    def prepare(cache: Path, checkpoint: Path) -> Sequence[str | Path]:
        model = environments.llama_cpp_model(cache, checkpoint, precision)
        return [sys.executable, WORKERS / "llama_cpp_worker.py", environments.llama_cpp_server(cache), model]

    return prepare


def _ours() -> dict[str, str]:
    return machine.versions(("fathom-server", "onnxruntime", "nvidia-pytriton"))


def _pins(name: str, *packages: str) -> Callable[[], dict[str, str]]:
    return lambda: environments.pinned_versions(name, packages)


_SERVED: Final = "Triton, gRPC, streamed"
_OPENVINO: Final = _pins("openvino-genai", "openvino-genai", "openvino", "nncf", "optimum-intel")
_LLAMA_CPP: Final = _pins("llama.cpp", "llama-cpp-python")
CONTENDERS: Final = (
    Contender("Fathom latency", "int4", _SERVED, _fathom("latency"), _ours, "latency"),
    Contender("Fathom throughput", "int8", _SERVED, _fathom("throughput"), _ours, "throughput"),
    Contender("Fathom adaptive", "int8, int4", _SERVED, _fathom("adaptive"), _ours, "adaptive"),
    Contender(
        "onnxruntime-genai int4",
        "int4",
        "in process, batches by Generator, paced by Engine",
        _genai,
        _pins("onnxruntime-genai", "onnxruntime-genai", "onnxruntime"),
    ),
    Contender("OpenVINO GenAI int4", "int4", "in process, continuous batching", _openvino("int4"), _OPENVINO),
    Contender("OpenVINO GenAI int8", "int8", "in process, continuous batching", _openvino("int8"), _OPENVINO),
    Contender("llama.cpp Q4_0", "4.5 bits", "HTTP, streamed", _llama_cpp("Q4_0"), _LLAMA_CPP),
    Contender("llama.cpp Q8_0", "8.5 bits", "HTTP, streamed", _llama_cpp("Q8_0"), _LLAMA_CPP),
)


@dataclass(slots=True)
class Worker:
    """A contender's process; a context manager that waits until it is ready, and ends it."""

    contender: Contender
    command: Sequence[str | Path]
    log: Path
    load_s: float = 0.0
    pid: int = 0
    process: "subprocess.Popen[str] | None" = field(default=None, repr=False)

    def start(self) -> Self:
        """Start it and wait; raises UnavailableError with the end of its log if it does not become ready."""
        began = time.perf_counter()
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                list(self.command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=machine.ROOT,
                start_new_session=True,  # Linux shares the cores out among sessions, and ours has one of its own
            )
        ready = self._read()
        self.pid = ready["pid"]
        self.load_s = ready["load_s"] or time.perf_counter() - began
        return self

    def run(self, jobs: Sequence[Job]) -> list[Answer]:
        """Let it answer requests."""
        stdin, _ = self._pipes()
        stdin.write(json.dumps({"jobs": [asdict(job) for job in jobs]}) + "\n")
        stdin.flush()
        return [Answer(**answer) for answer in self._read()["answers"]]

    def stop(self) -> None:
        """End it, and all that it started."""
        if self.process is None:
            return
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            for process in machine.process_tree(self.process.pid):
                process.kill()
            self.process.wait()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        if self.process is None or self.process.stdin is None or self.process.stdout is None:
            raise UnavailableError(f"{self.contender.name} was not started")
        return self.process.stdin, self.process.stdout

    def _read(self) -> dict[str, Any]:
        _, stdout = self._pipes()
        line = stdout.readline()
        if not line:
            end = self.log.read_text(encoding="utf-8", errors="replace").strip()[-1500:]
            raise UnavailableError(f"{self.contender.name} ended: {end}")
        message: dict[str, Any] = json.loads(line)
        return message
