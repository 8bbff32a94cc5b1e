"""uvicorn's HTTP/1.1 with the bounds that it lacks, so that nobody can hold a connection for nothing.

uvicorn limits the time between two requests of a connection alone. Here a connection that sends no head, or a slow one,
ends after ``header_timeout_s``; one that does not read its answer after ``body_timeout_s`` without progress; one that
goes on sending a body which was refused after ``LINGER_S``; and one too many is turned away. What is no HTTP gets
OpenAI's error object. The time of a body is the ``body`` layer's.
"""

import asyncio
import json
import logging
import re
import resource
import sys
from typing import Any, ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from fathom_server.errors import SettingsError
from fathom_server.gateway.edge.access_log import log_event
from fathom_server.gateway.edge.metrics import GatewayMetrics
from fathom_server.gateway.errors import (
    ApiError,
    HeadTooLargeError,
    InvalidApiRequestError,
    SlowRequestError,
    UnavailableError,
)
from fathom_server.gateway.settings import GatewaySettings

MAX_HEAD_BYTES: Final = 32768
"""Request line and headers together."""

LINGER_S: Final = 2.0
"""So long the rest of a body is read that was refused before its end: a caller that is cut off while it sends may never
see the answer."""

FULL_RETRY_S: Final = 1.0
SPARE_FILES: Final = 128
"""Files that are no caller's connection: the log, the listening socket, gRPC's own, and those about to be refused."""


_HEAD_END: Final = re.compile(rb"\n\r?\n")

_log: Final = logging.getLogger("fathom.gateway.http")
_log.setLevel(logging.ERROR)  # uvicorn's warnings of bad requests say less than the lines of the access log


class GatewayProtocol(H11Protocol):
    """One connection. ``settings`` and ``metrics`` are those of a subclass that ``protocol_of`` makes."""

    settings: ClassVar[GatewaySettings]
    metrics: ClassVar[GatewayMetrics]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = _log
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Take a connection, or turn it away."""
        super().connection_made(transport)
        self.metrics.connect()
        if len(self.connections) > self.settings.max_connections:
            message = f"{self.settings.max_connections} connections are open, the most that are taken; try again"
            error = UnavailableError(message, code="too_many_connections", retry_after_s=FULL_RETRY_S)
            self._refuse("connections", error)
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self.metrics.disconnect()
        for timer in (self._head_timer, self._write_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in; those of a head have until the time that ran from its first byte."""
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self._is_head_too_large(data):
            message = f"the request's head is larger than {MAX_HEAD_BYTES} bytes; send fewer or shorter headers"
            self._refuse("head", HeadTooLargeError(message, code="head_too_large"))
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._await_head()

    def on_response_complete(self) -> None:
        """Begin the wait for the next request, or for the rest of a body that nobody will read."""
        super().on_response_complete()
        if self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            self._linger_timer = self.loop.call_later(LINGER_S, self._end_linger)

    def pause_writing(self) -> None:
        """The caller does not read as fast as the answer comes: give it a while."""
        super().pause_writing()
        self._await_reading(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The caller reads."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; uvicorn calls this where h11 has raised."""
        what = str(sys.exc_info()[1] or msg).partition(": bytearray")[0]  # without the bytes themselves
        self._refuse("head", InvalidApiRequestError(f"this is no HTTP/1.1 request: {what}", code="no_http"))

    def _is_head_too_large(self, data: bytes) -> bool:
        """Whether a head is, with these bytes; h11 looks only at heads that come in several pieces."""
        received = self.conn.trailing_data[0] + data
        if len(received) <= MAX_HEAD_BYTES:
            return False
        end = _HEAD_END.search(received)
        return end is None or end.start() > MAX_HEAD_BYTES

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _await_reading(self, unread_bytes: int) -> None:
        self._write_timer = self.loop.call_later(self.settings.body_timeout_s, self._check_reading, unread_bytes)

    def _check_reading(self, unread_bytes: int) -> None:
        left_bytes = self.transport.get_write_buffer_size()
        if left_bytes < unread_bytes:
            self._await_reading(left_bytes)
        else:
            self.metrics.reject("reader")
            log_event("connection cut off", reason="reader", address=self._address, unread_bytes=left_bytes)
            self.transport.abort()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.settings.header_timeout_s, self._refuse_late_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_late_head(self) -> None:
        if not self.conn.trailing_data[0]:  # nothing was asked, so nothing is answered
            self.transport.close()
            return
        limit_s = self.settings.header_timeout_s
        message = f"no whole request arrived within {limit_s:g} s; send its headers faster"
        self._refuse("head", SlowRequestError(message, code="slow_request"))

    def _end_linger(self) -> None:
        if self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            self.transport.abort()

    def _refuse(self, reason: str, error: ApiError) -> None:
        """End the connection with an answer, if an answer can still be understood."""
        self._stop_head_timer()
        self.metrics.reject(reason)
        log_event("connection refused", reason=reason, address=self._address, status=error.status)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error.body()).encode()
            headers = {
                **error.headers(),
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
            }
            response = h11.Response(
                status_code=error.status, headers=list(headers.items()), reason=STATUS_PHRASES[error.status]
            )
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def protocol_of(settings: GatewaySettings, metrics: GatewayMetrics) -> type[GatewayProtocol]:
    """The protocol of one gateway, as uvicorn's ``http`` takes it."""
    return type("GatewayProtocolHere", (GatewayProtocol,), {"settings": settings, "metrics": metrics})


def allow_connections(settings: GatewaySettings) -> None:
    """Let this process open a file for each connection; raises SettingsError where the system does not."""
    wanted = settings.max_connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SettingsError(
            f"max_connections is {settings.max_connections}, and this process may open {hard} files; "
            f"raise that limit (ulimit -Hn) to {wanted}, or lower max_connections"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
