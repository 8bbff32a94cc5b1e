"""One server from its start to its end: what ``fathom-serve`` runs."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Final

from fathom_server.errors import NotReadyError, SettingsError
from fathom_server.json_log import FORMAT_VARIABLE, JSON_FORMAT
from fathom_server.launcher.drain import drain
from fathom_server.launcher.gateway_process import GatewayProcess
from fathom_server.launcher.last_words import leave_last_words
from fathom_server.launcher.memory_kills import MemoryKills
from fathom_server.launcher.ports import Ports, choose_ports, taken_port, write_ports_file
from fathom_server.launcher.process import Exited, GatewayEnded, SignalReceived, StubEnded, TritonProcess
from fathom_server.launcher.protection import Protection
from fathom_server.launcher.readiness import ANY_ADDRESS, ServedModels, served_models, wait_until_ready
from fathom_server.launcher.repository_check import (
    cascades_of,
    check_repository,
    check_shared_memory,
    free_shared_memory,
)
from fathom_server.launcher.settings import LaunchSettings
from fathom_server.launcher.stub_watch import StubWatch, model_states
from fathom_server.launcher.triton_log import say
from fathom_server.launcher.tritonserver import Tritonserver, find_tritonserver
from fathom_server.sizing.gate import check_memory

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CRASHES: Final = frozenset(
    128 + number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
)
"""Triton's statuses after which it is started again: its own fault, no word of an operator or of the kernel."""

MAX_RESTARTS: Final = 3
MAX_PORT_CHOICES: Final = 5
"""Free ports are chosen so often, since another program may take one before Triton has opened it."""

RESTART_WINDOW_S: Final = 600.0
"""More restarts than ``MAX_RESTARTS`` in so many seconds are left to whoever started this process."""


def serve(settings: LaunchSettings) -> int:
    """Serve a repository until a stop signal or Triton's own end; returns the exit status. For the main thread.

    When every model is ready, one line of JSON (ports and pid) goes to stdout and to the ports file. Raises
    SettingsError and LaunchError for what can be seen before Triton starts. Where the process of a model ends, Triton
    is started again: that breaks off every stream, the hanging ones of that model among them. So it is where it has
    crashed itself. A gateway that ends is started again beside it.
    """
    if settings.log_format == JSON_FORMAT:
        os.environ[FORMAT_VARIABLE] = JSON_FORMAT  # for Triton's models as well
    kills = MemoryKills()
    models = check_repository(settings.repository)
    protection = Protection.of(settings, cascades_of(settings.repository, models))
    check_memory(settings.repository, models)
    tritonserver = find_tritonserver(settings.tritonserver)
    warning = check_shared_memory(free_shared_memory(), len(models))
    if warning is not None:
        say(f"warning: {warning}")
    for choice in range(1, MAX_PORT_CHOICES + 1):
        ports = choose_ports(settings)
        with GatewayProcess(settings, ports) if settings.gateway else nullcontext() as gateway:
            try:
                return _serve(settings, models, tritonserver, ports, protection, gateway, kills)
            except NotReadyError as error:
                taken = taken_port(settings.host, ports) if settings.auto_ports else None
                if taken is None or choice == MAX_PORT_CHOICES:
                    return _failed(settings, kills.explained(str(error)))
        say(f"port {taken} was taken by another program before Triton opened it; choosing others")
    raise AssertionError("the last choice returns")


def _serve(
    settings: LaunchSettings,
    models: tuple[str, ...],
    tritonserver: Tritonserver,
    ports: Ports,
    protection: Protection,
    gateway: GatewayProcess | None,
    kills: MemoryKills,
) -> int:
    """Serve on these ports; raises NotReadyError where the server does not become ready."""
    restarts = _Restarts()
    is_first = True
    while True:
        with TritonProcess(tritonserver, settings, ports, protection) as process, _signals_to(process):
            say(f"starting {tritonserver.binary} with {len(models)} models: {', '.join(models)}")
            if gateway is not None:
                gateway.ensure_running(process.post)
            # from the start on: a model may die at any moment
            with _stub_watch(process, settings, ports, protection) as watch:
                if not wait_until_ready(process, settings.host, ports, models, settings.ready_timeout_s):
                    say("stopped before it was ready")
                    return 0
                watch.settle()
                if gateway is not None:
                    gateway.wait_until_listening()
                served = served_models(settings.host, ports, settings.repository, models, protection.headers)
                with _announced(ports, settings.ports_file, is_first=is_first):
                    is_first = False
                    end = _end_of(process)
                    while isinstance(end, GatewayEnded) and gateway is not None and restarts.may_begin():
                        say(f"the gateway ended with status {end.status}; it is started again")
                        gateway.ensure_running(process.post)
                        end = _end_of(process)
            if isinstance(end, SignalReceived | GatewayEnded):
                if isinstance(end, GatewayEnded):
                    _failed(settings, f"the gateway ended once more; giving up after {MAX_RESTARTS} restarts")
                return _stop(process, settings, ports, served, gateway) or int(isinstance(end, GatewayEnded))
        if isinstance(end, Exited):
            last = "; ".join(process.errors)
            what = f"Triton ended by itself with status {end.status}{': ' + last if last else ''}"
            if end.status not in CRASHES:
                _failed(settings, kills.explained(what))
                return end.status
            again = f"{what}; it is started again"
        else:
            what = f"the process of model {end.model!r} ended"
            again = f"{what}, so its requests cannot be answered and Triton is started again"
        if not restarts.may_begin():
            _failed(settings, kills.explained(f"{what}; giving up after {MAX_RESTARTS} restarts"))
            return end.status if isinstance(end, Exited) else 1
        say(kills.explained(again))


def _failed(settings: LaunchSettings, reason: str) -> int:
    """Say why this server ends, in the log and where a supervisor looks; returns the exit status."""
    say(f"error: {reason}")
    leave_last_words(settings.termination_log, reason)
    return 1


class _Restarts:
    """Restarts of the last while, of whatever was started again."""

    def __init__(self) -> None:
        self._moments: list[float] = []

    def may_begin(self) -> bool:
        """Note one more, unless there were too many."""
        now = time.monotonic()
        self._moments = [*(moment for moment in self._moments if now - moment < RESTART_WINDOW_S), now]
        return len(self._moments) <= MAX_RESTARTS


def _stop(
    process: TritonProcess,
    settings: LaunchSettings,
    ports: Ports,
    models: ServedModels,
    gateway: GatewayProcess | None,
) -> int:
    """Stop both at once; the gateway hands the last answers on. Returns the exit status."""
    deadline = time.monotonic() + settings.drain_s
    if gateway is not None:
        gateway.terminate()
    status = drain(process, settings.host, ports, models, settings.drain_s)
    if status == 0 and gateway is not None and not gateway.finish(deadline - time.monotonic()):
        return 1
    return status


def _end_of(process: TritonProcess) -> Exited | SignalReceived | StubEnded | GatewayEnded:
    """Wait until Triton ends, a stop is asked for, or a model's process or the gateway is gone."""
    while True:
        event = process.next_event()
        if isinstance(event, Exited | SignalReceived | StubEnded | GatewayEnded):
            return event


def _stub_watch(process: TritonProcess, settings: LaunchSettings, ports: Ports, protection: Protection) -> StubWatch:
    """Post an event when the process of a ready model ends."""
    host = ANY_ADDRESS.get(settings.host, settings.host)
    return StubWatch(
        process.triton_pid,
        lambda: model_states(host, ports.http, protection.headers),
        on_end=lambda model: process.post(StubEnded(model)),
    )


@contextmanager
def _signals_to(process: TritonProcess) -> Iterator[None]:
    def post(number: int, _frame: FrameType | None) -> None:
        process.post(SignalReceived(number))

    before = {number: signal.signal(number, post) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _announced(ports: Ports, file: Path | None, *, is_first: bool) -> Iterator[None]:
    """Say on stdout once, and in a file that exists only meanwhile, that the server is ready and where."""
    if file is not None:
        try:
            write_ports_file(file, ports)
        except OSError as error:
            raise SettingsError(f"--ports-file {file} cannot be written ({error.strerror})") from error
    if is_first:
        print(ports.as_json(os.getpid()), flush=True)  # noqa: T201 (the one machine-readable line)
    try:
        yield
    finally:
        if file is not None:
            file.unlink(missing_ok=True)
