"""The gateway as a process: it listens, serves, and stops in order."""

import asyncio
import contextlib
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from types import FrameType
from typing import Final

import uvicorn

from fathom_client import AsyncClient, Tls
from fathom_client.errors import InvalidArgumentError
from fathom_server.errors import SettingsError
from fathom_server.gateway.app import create_app
from fathom_server.gateway.edge.access_log import configure_logging
from fathom_server.gateway.edge.http_protocol import MAX_HEAD_BYTES, allow_connections, protocol_of
from fathom_server.gateway.edge.metrics import GatewayMetrics
from fathom_server.gateway.settings import GatewaySettings
from fathom_server.tracing import GATEWAY_SERVICE, tracer_provider

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
BACKLOG: Final = 2048


def run(settings: GatewaySettings) -> int:
    """Serve until a stop signal; returns the exit status: 0, or 1 if answers were cut off at the deadline.

    On a signal no connection is taken any more, running answers finish for at most ``drain_s``; a second one ends
    everything at once. Raises SettingsError for a target or an address that cannot be.
    """
    configure_logging()
    check_tls(settings)
    allow_connections(settings)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what others reload upon; changed keys are seen without it
    with contextlib.closing(_listen(settings.host, settings.port)) as listening:
        return asyncio.run(_serve(settings, listening))


def check_tls(settings: GatewaySettings) -> None:
    """Raise SettingsError for a certificate and key that cannot be served with."""
    if settings.tls_cert is None or settings.tls_key is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=b"")  # else OpenSSL asks the terminal
    except OSError as error:  # an SSLError, too, is one
        raise SettingsError(
            f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} cannot be served with ({error}): give a "
            "certificate and its key in PEM form, the key without a password"
        ) from None


def _target_tls(settings: GatewaySettings) -> Tls | None:
    """How Triton is spoken with; raises InvalidArgumentError."""
    if settings.target_ca is None:
        return None
    return Tls(settings.target_ca, settings.target_cert, settings.target_key, settings.target_server_name or None)


async def _serve(settings: GatewaySettings, listening: socket.socket) -> int:
    try:
        client = AsyncClient(settings.target, timeout=settings.request_timeout_s, tls=_target_tls(settings))
    except InvalidArgumentError as error:
        raise SettingsError(f"target: {error}") from error
    counted = GatewayMetrics()
    traces = None
    if settings.otlp_endpoint:
        traces = tracer_provider(settings.otlp_endpoint, GATEWAY_SERVICE, settings.trace_share)
    async with client:
        server = _Server(
            uvicorn.Config(
                create_app(settings, client, counted, traces),
                http=protocol_of(settings, counted),
                ws="none",
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
                timeout_keep_alive=round(settings.keep_alive_s),
                timeout_graceful_shutdown=settings.drain_s,  # type: ignore[arg-type] # parts of a second are taken, too
            )
        )
        await server.serve(sockets=[listening])
        if traces is not None:
            await asyncio.to_thread(traces.shutdown)
        return 1 if server.has_cut_off else 0


class _Server(uvicorn.Server):
    """uvicorn's server, which ends with a status instead of raising its stop signal once more."""

    has_cut_off = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop in order on the first signal, at once on the second."""
        before = {number: signal.signal(number, self.handle_exit) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers finish; those that are left at the deadline, or at a second signal, are cut off."""
        began = time.monotonic()
        await super().shutdown(sockets)
        limit_s = self.config.timeout_graceful_shutdown or 0
        self.has_cut_off = self.force_exit or time.monotonic() - began >= limit_s


def _listen(host: str, port: int) -> socket.socket:
    """A listening address; raises SettingsError saying why there is none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(f"host {host!r} cannot be listened on ({error.strerror})") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise SettingsError(
            f"port {port} on {host} cannot be listened on ({error.strerror}); choose another"
        ) from error
    listening.set_inheritable(True)
    return listening
