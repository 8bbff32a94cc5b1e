"""The outermost layer: every request gets an id, is counted, and is logged when it has ended."""

import contextlib
import logging
import re
import time
from functools import cached_property
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fathom_server.gateway.edge.access_log import log_request
from fathom_server.gateway.edge.metrics import GatewayMetrics
from fathom_server.gateway.edge.request_record import begin_record

if TYPE_CHECKING:
    from fathom_server.gateway.edge.request_spans import RequestSpans

NO_ROUTE: Final = "none"
"""The route's name of a path that the gateway does not have: paths that callers make up must not become series."""

_EVENT_STREAM: Final = b"text/event-stream"

_log: Final = logging.getLogger("fathom.gateway")


class Observation:
    """Numbers, counts and logs requests; answers carry ``x-request-id``, calls of Triton the caller's trace context.

    ``api`` is asked for its paths. With ``spans`` each request has a span, and Triton is told of that one.
    """

    def __init__(
        self, app: ASGIApp, api: FastAPI, metrics: GatewayMetrics, spans: "RequestSpans | None" = None
    ) -> None:
        self._app = app
        self._api = api
        self._metrics = metrics
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = self._route_of(scope["path"])
        record = begin_record(scope, route, is_work=scope["method"] == "POST" and route in self._posted)
        is_complete = False

        async def receive_seen() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not is_complete:
                record.has_hung_up = True
            return message

        async def send_seen(message: Message) -> None:
            nonlocal is_complete
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = list(message.get("headers", ()))
                record.is_stream = any(
                    name.lower() == b"content-type" and value.startswith(_EVENT_STREAM) for name, value in headers
                )
                message["headers"] = [*headers, (b"x-request-id", record.request_id.encode())]
            else:
                if record.is_stream and record.first_output_s is None and message.get("body"):
                    record.first_output_s = time.perf_counter()
                is_complete = not message.get("more_body", False)
            await send(message)

        span = None if self._spans is None else self._spans.begin(record)
        self._metrics.begin(record)
        try:
            with contextlib.nullcontext() if record.trace is None else record.trace.use():
                await self._app(scope, receive_seen, send_seen)
        except Exception:
            _log.exception("request %s failed", record.request_id)
            record.status = record.status or 500
            if not is_complete:
                raise  # what was begun must not look whole: the server closes the connection
        finally:
            self._metrics.end(record)
            if self._spans is not None and span is not None:
                self._spans.end(span, record)
            log_request(record)

    @cached_property
    def _routes(self) -> dict[str, re.Pattern[str]]:
        """The documented paths and what they match."""
        return {path: compile_path(path)[0] for path in self._api.openapi()["paths"]}

    @cached_property
    def _posted(self) -> frozenset[str]:
        """The documented paths that take a POST."""
        return frozenset(path for path, operations in self._api.openapi()["paths"].items() if "post" in operations)

    def _route_of(self, path: str) -> str:
        if path in self._routes:
            return path
        return next((route for route, pattern in self._routes.items() if pattern.match(path)), NO_ROUTE)
