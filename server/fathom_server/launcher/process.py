"""Triton as a process: started in a group of its own, watched, ended with everything it started."""

import contextlib
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

from fathom_server.backends.fathom.drain_watch import DRAIN_VARIABLE, DrainWord, write_drain_word
from fathom_server.backends.tokenizer.encoder_backlog import ADDRESS_VARIABLE
from fathom_server.cascade.address import CERTIFICATE_VARIABLE, GRPC_VARIABLE, KEY_VARIABLE, NAME_VARIABLE
from fathom_server.errors import LaunchError
from fathom_server.launcher.backend_folder import assemble_backends, python_folder
from fathom_server.launcher.ports import Ports
from fathom_server.launcher.protection import ADMIN_KEY_VARIABLE, Protection
from fathom_server.launcher.repository_check import MIB, SHARED_MEMORY, check_repository, wanted_features
from fathom_server.launcher.settings import LaunchSettings
from fathom_server.launcher.triton_log import LogForwarder, LogLine, LogReader, TritonEvent
from fathom_server.launcher.tritonserver import Tritonserver
from fathom_server.tracing import ENDPOINT_VARIABLE, triton_flags
from fathom_server.vllm.settings import most_requests

GUARDIAN: Final = Path(__file__).with_name("guardian.py")
GPU_DEVICES: Final = (Path("/dev/nvidiactl"), Path("/dev/dxg"))


@dataclass(frozen=True, slots=True)
class Exited:
    """Triton has ended. ``status`` is its exit status, or 128 plus the number of the signal that killed it."""

    status: int


@dataclass(frozen=True, slots=True)
class SignalReceived:
    """The launcher was asked to stop."""

    number: int


@dataclass(frozen=True, slots=True)
class StubEnded:
    """The process of a ready Python model has ended; Triton does not start it again."""

    model: str


@dataclass(frozen=True, slots=True)
class GatewayEnded:
    """The gateway beside Triton has ended, and nobody had asked it to. ``status`` is as Python's subprocess has it."""

    status: int


Event = TritonEvent | Exited | SignalReceived | StubEnded | GatewayEnded


class TritonProcess:
    """One Triton over one repository; a context manager that leaves nothing behind.

    Events come in order from ``next_event``; ``post`` adds one (a signal handler's). Triton, the stubs of its Python
    models and a guardian share a process group. Raises LaunchError if it cannot be started.
    """

    def __init__(
        self, tritonserver: Tritonserver, settings: LaunchSettings, ports: Ports, protection: Protection
    ) -> None:
        self._tritonserver = tritonserver
        self._settings = settings
        self._ports = ports
        self._protection = protection
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._reader = LogReader()
        self._region_prefix = f"fathom_{secrets.token_hex(6)}_"

    def __enter__(self) -> Self:
        has_gpu = any(device.exists() for device in GPU_DEVICES)
        try:
            self._forwarder = LogForwarder(self._settings.log_level, self._settings.log_file, has_gpu)
        except OSError as error:
            raise LaunchError(f"--log-file {self._settings.log_file} cannot be written ({error.strerror})") from error
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="fathom-serve-"))
        except OSError as error:
            raise LaunchError(f"no temporary folder can be made ({error}); name a writable one in TMPDIR") from error
        try:
            self._start(has_gpu)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        self._triton.wait()
        self._guardian.wait()
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()
        self._pump.join(timeout=5)
        if not self._pump.is_alive():  # else a process that a model left behind holds the pipe
            self._output.close()
        for region in SHARED_MEMORY.glob(f"{self._region_prefix}*"):
            region.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._forwarder.close()

    @property
    def errors(self) -> deque[str]:
        """The last error lines of the log."""
        return self._reader.errors

    def post(self, event: Event) -> None:
        """Add an event; safe in a signal handler."""
        self._events.put(event)

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        """Wait for the next event; None when the time is up."""
        try:
            return self._events.get(timeout=None if timeout_s is None else max(0.0, timeout_s))
        except queue.Empty:
            return None

    @property
    def triton_pid(self) -> int:
        """Process id of Triton itself."""
        return self._triton.pid

    def tell_models(self, word: DrainWord) -> None:
        """Tell Fathom's LLMs to refuse new requests, or to end those that run."""
        with contextlib.suppress(OSError):  # a full disk must not keep the server from stopping
            write_drain_word(self._drain_file, word)

    def terminate(self) -> None:
        """Ask Triton to finish what runs and end."""
        self._triton.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the whole group at once."""
        os.killpg(self._guardian.pid, signal.SIGKILL)  # the guardian is not yet waited for, so the group's id is ours

    def _start(self, has_gpu: bool) -> None:
        environment = self._tritonserver.environment(python_folder(self._folder / "bin"))
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        environment[ADDRESS_VARIABLE] = f"{host}:{self._ports.metrics}"
        environment[GRPC_VARIABLE] = f"{host}:{self._ports.grpc}"
        environment[DRAIN_VARIABLE] = str(self._drain_file)
        for name in (ADMIN_KEY_VARIABLE, CERTIFICATE_VARIABLE, NAME_VARIABLE, KEY_VARIABLE):
            environment.pop(name, None)  # the key, models need not know; the rest would be another server's
        environment |= self._protection.environment
        if self._settings.otlp_endpoint:
            environment[ENDPOINT_VARIABLE] = self._settings.otlp_endpoint
        self._tritonserver.check_stub(environment)
        command = self._command(has_gpu)
        guardian = [sys.executable, "-I", "-S", str(GUARDIAN), str(self._folder), self._region_prefix]
        self._guardian = subprocess.Popen(guardian, stdin=subprocess.PIPE, process_group=0)
        try:
            self._triton = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=self._guardian.pid,
            )
        except OSError as error:
            self._guardian.kill()
            self._guardian.wait()
            raise LaunchError(f"{command[0]} cannot be started ({error.strerror})") from error
        assert self._triton.stdout is not None  # noqa: S101 (a pipe was asked for)
        self._output: IO[bytes] = self._triton.stdout
        self._pump = threading.Thread(target=self._read_log, name="triton-log", daemon=True)
        self._pump.start()
        threading.Thread(target=self._await_exit, name="triton-exit", daemon=True).start()

    @property
    def _drain_file(self) -> Path:
        return self._folder / "drain"

    def _command(self, has_gpu: bool) -> list[str]:
        settings, ports = self._settings, self._ports
        backends = assemble_backends(self._tritonserver, self._folder / "backends")
        command = [
            str(self._tritonserver.binary),
            f"--model-repository={settings.repository.resolve()}",
            f"--backend-directory={backends.path}",
            f"--http-address={settings.host}",
            f"--grpc-address={settings.host}",
            f"--metrics-address={settings.host}",
            f"--http-port={ports.http}",
            f"--grpc-port={ports.grpc}",
            f"--metrics-port={ports.metrics}",
            "--exit-on-error=true",
            f"--exit-timeout-secs={triton_exit_timeout_s(settings.drain_s)}",
            f"--log-verbose={settings.log_verbose}",
            *self._protection.flags(),
        ]
        command += [
            f"--backend-config={name},shm-region-prefix-name={self._region_prefix}" for name in backends.python_based
        ]
        if most := most_requests(settings.repository):
            # Triton holds a thread for each request to another model until its first response; by default it has 32
            command.append(f"--backend-config=fathom,thread-pool-size={most}")
        if not settings.auto_complete_config:
            # export writes whole configs; completing one would start every Python model's stub a second time
            command.append("--disable-auto-complete-config")
        wanted = wanted_features(settings.repository, check_repository(settings.repository))
        if wanted.response_cache:
            command.append(f"--cache-config=local,size={settings.cache_mb * MIB}")
            if self._tritonserver.caches.is_dir():
                command.append(f"--cache-directory={self._tritonserver.caches}")
        if wanted.rate_limiter:
            command.append("--rate-limit=execution_count")
        if settings.otlp_endpoint:
            command += triton_flags(settings.otlp_endpoint)
        if not has_gpu:
            command += ["--allow-gpu-metrics=false", "--pinned-memory-pool-byte-size=0"]
        return command

    def _read_log(self) -> None:
        for raw in self._output:
            line = LogLine.parse(raw.decode("utf-8", errors="replace").rstrip("\r\n"))
            self._forwarder.forward(line)
            event = self._reader.read(line)
            if event is not None:
                self._events.put(event)

    def _await_exit(self) -> None:
        status = self._triton.wait()
        self._pump.join(timeout=1)  # the last lines first; a stub that is still ending may hold the pipe open
        self._events.put(Exited(status if status >= 0 else 128 - status))


def triton_exit_timeout_s(drain_s: float) -> int:
    """How long Triton itself waits, in whole seconds: longer, since at the end it cuts answers off without a word."""
    return int(drain_s) + 10
