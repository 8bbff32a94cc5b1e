"""The server's processes, where they are on this host."""

import ipaddress
import socket
from dataclasses import dataclass

import psutil

from fathom_loadtest.errors import MetricsError


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """What the server's processes take at one moment: how many, resident memory, CPU time since their start."""

    processes: int
    rss_bytes: int
    cpu_s: float


class ServerProcesses:
    """The process that listens on a port of this host, and its children."""

    def __init__(self, url: str) -> None:
        """Find it; raises MetricsError where the server is on another host or cannot be told."""
        host, _, port = url.rpartition(":")
        if not _is_here(host.strip("[]")):
            raise MetricsError(f"memory of the server is not known: {host} is another host")
        try:
            listening = [
                connection.pid
                for connection in psutil.net_connections(kind="tcp")
                if connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == int(port)
                and connection.pid
            ]
        except psutil.AccessDenied:
            listening = []
        if not listening:
            raise MetricsError(
                f"memory of the server is not known: no process of this host that we may look at listens on {port} "
                "(it may be in a container, or another user's)"
            )
        self._server = psutil.Process(listening[0])

    def sample(self) -> ProcessSample | None:
        """Look at them now; None where they are gone."""
        try:
            family = [self._server, *self._server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return None
        rss_bytes, cpu_s, number = 0, 0.0, 0
        for process in family:
            try:
                with process.oneshot():
                    rss_bytes += process.memory_info().rss
                    times = process.cpu_times()
            except psutil.Error:  # it ended meanwhile
                continue
            cpu_s += times.user + times.system
            number += 1
        return ProcessSample(number, rss_bytes, cpu_s) if number else None


def _is_here(host: str) -> bool:
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    own = (interface.address for addresses in psutil.net_if_addrs().values() for interface in addresses)
    return host in own
