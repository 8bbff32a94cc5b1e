"""The ports that Triton will listen on."""

import errno
import json
import os
import random
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from fathom_server.errors import SettingsError
from fathom_server.gateway.settings import DEFAULT_PORT
from fathom_server.launcher.settings import (
    DEFAULT_GRPC_PORT,
    DEFAULT_HTTP_PORT,
    DEFAULT_METRICS_PORT,
    LaunchSettings,
)

FREE_PORTS: Final = range(12000, 32000)
"""Where free ports are looked for: below the range from which Linux takes the ports of outgoing connections, so that
none of those can take one while the models load."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where Triton listens, and the gateway beside it, if there is one."""

    grpc: int
    http: int
    metrics: int
    openai: int | None = None

    def as_json(self, pid: int) -> str:
        """One line of JSON: the ports and the process to signal."""
        ports = {name: port for name, port in asdict(self).items() if port is not None}
        return json.dumps({**ports, "pid": pid})


def choose_ports(settings: LaunchSettings) -> Ports:
    """The ports of the flags, Triton's usual ones, or free ones; each has been seen to be free on the host.

    Raises SettingsError naming the port and its flag if one is taken, given twice, or not this user's to open.
    """
    chosen: list[int] = []
    wanted_ports = [
        ("--grpc-port", settings.grpc_port, DEFAULT_GRPC_PORT),
        ("--http-port", settings.http_port, DEFAULT_HTTP_PORT),
        ("--metrics-port", settings.metrics_port, DEFAULT_METRICS_PORT),
    ]
    if settings.gateway:
        wanted_ports.append(("--openai-port", settings.openai_port, DEFAULT_PORT))
    for flag, port, default in wanted_ports:
        if port is None and settings.auto_ports:
            chosen.append(_free_port(settings.host, chosen))
            continue
        wanted = default if port is None else port
        if wanted in chosen:
            raise SettingsError(f"port {wanted} ({flag}) is given twice; each service needs one of its own")
        _check_port(settings.host, wanted, flag)
        chosen.append(wanted)
    return Ports(*chosen)


def taken_port(host: str, ports: Ports) -> int | None:
    """A port that somebody else listens on by now, None if all could be opened."""
    for port in filter(None, (ports.grpc, ports.http, ports.metrics, ports.openai)):
        error = _bind_error(host, port)
        if error is not None and error.errno == errno.EADDRINUSE:
            return port
    return None


def write_ports_file(path: Path, ports: Ports) -> None:
    """Write the ports as JSON; a reader sees the whole file or none."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(ports.as_json(os.getpid()) + "\n", encoding="utf-8")
    draft.replace(path)


def _free_port(host: str, taken: list[int]) -> int:
    for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
        if port not in taken and _bind_error(host, port) is None:
            return port
    raise SettingsError(
        f"--ports auto found no free port on {host!r} from {FREE_PORTS.start} to {FREE_PORTS.stop - 1}; "
        "check --host, or name the ports"
    )


def _check_port(host: str, port: int, flag: str) -> None:
    error = _bind_error(host, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise SettingsError(
            f"port {port} ({flag}) is in use on {host}; choose another with {flag}, or use --ports auto"
        )
    if error.errno == errno.EACCES:
        raise SettingsError(f"port {port} ({flag}) may not be opened by this user; choose one above 1023 with {flag}")
    raise SettingsError(f"--host {host!r} cannot be listened on ({error.strerror}); name an address of this machine")


def _bind_error(host: str, port: int) -> OSError | None:
    """Why the port cannot be opened, or None."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Triton: a port in TIME_WAIT is free
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error
    return None
