"""One server from its start to its end: what ``fathom-serve`` runs."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from fathom_server.errors import LaunchError, SettingsError
from fathom_server.launcher.drain import drain
from fathom_server.launcher.ports import Ports, choose_ports, write_ports_file
from fathom_server.launcher.process import Exited, SignalReceived, TritonProcess
from fathom_server.launcher.readiness import decoupled_models, wait_until_ready
from fathom_server.launcher.repository_check import check_repository, check_shared_memory, free_shared_memory
from fathom_server.launcher.settings import LaunchSettings
from fathom_server.launcher.triton_log import say
from fathom_server.launcher.tritonserver import find_tritonserver

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def serve(settings: LaunchSettings) -> int:
    """Serve a repository until a stop signal or Triton's own end; returns the exit status. For the main thread.

    When every model is ready, one line of JSON (ports and pid) goes to stdout and to the ports file. Raises
    SettingsError and LaunchError for what can be seen before Triton starts.
    """
    models = check_repository(settings.repository)
    tritonserver = find_tritonserver(settings.tritonserver)
    warning = check_shared_memory(free_shared_memory(), len(models))
    if warning is not None:
        say(f"warning: {warning}")
    ports = choose_ports(settings)
    with TritonProcess(tritonserver, settings, ports) as process, _signals_to(process):
        say(f"starting {tritonserver.binary} with {len(models)} models: {', '.join(models)}")
        try:
            if not wait_until_ready(process, settings.host, ports, models, settings.ready_timeout_s):
                say("stopped before it was ready")
                return 0
        except LaunchError as error:
            say(f"error: {error}")
            return 1
        decoupled = decoupled_models(settings.host, ports, models)
        with _announced(ports, settings.ports_file):
            while True:
                event = process.next_event()
                if isinstance(event, Exited):
                    last = "; ".join(process.errors)
                    say(f"Triton ended by itself with status {event.status}{': ' + last if last else ''}")
                    return event.status
                if isinstance(event, SignalReceived):
                    break
        return drain(process, settings.host, ports, models, decoupled, settings.drain_s)


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
def _announced(ports: Ports, file: Path | None) -> Iterator[None]:
    """Say on stdout, and in a file that exists only meanwhile, that the server is ready and where."""
    if file is not None:
        try:
            write_ports_file(file, ports)
        except OSError as error:
            raise SettingsError(f"--ports-file {file} cannot be written ({error.strerror})") from error
    print(ports.as_json(os.getpid()), flush=True)  # noqa: T201 (the one machine-readable line)
    try:
        yield
    finally:
        if file is not None:
            file.unlink(missing_ok=True)
