"""A collector of traces for a test: it takes OTLP over HTTP, as protobuf or as JSON, and keeps every span."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span; ids in hexadecimal, ``parent`` empty for a trace's first, times in nanoseconds since the epoch."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    begun_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    events: tuple[str, ...]
    is_error: bool


@dataclass(slots=True)
class OtlpReceiver:
    """It listens on a free port of this machine; a context manager."""

    spans: list[ReceivedSpan] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                is_json = self.headers["Content-Type"].startswith("application/json")
                receiver.spans.extend(_from_json(body) if is_json else _from_protobuf(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def trace(self, trace: str) -> list[ReceivedSpan]:
        """The spans of a trace so far."""
        return [span for span in list(self.spans) if span.trace == trace]

    def wait_for(self, trace: str, found: Callable[[list[ReceivedSpan]], bool]) -> list[ReceivedSpan]:
        """The spans of a trace once what is ``found`` suffices; fails the test if it does not."""
        deadline = time.monotonic() + PATIENCE_S
        while not found(spans := self.trace(trace)):
            if time.monotonic() > deadline:
                pytest.fail(f"of trace {trace} there are only {[(span.service, span.name) for span in spans]}")
            time.sleep(0.05)
        return spans


def _from_protobuf(body: bytes) -> Iterator[ReceivedSpan]:
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = {each.key: _value(each.value) for each in of_resource.resource.attributes}
        for span in (span for of_scope in of_resource.scope_spans for span in of_scope.spans):
            yield ReceivedSpan(
                service=resource["service.name"],
                name=span.name,
                trace=span.trace_id.hex(),
                id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                begun_ns=span.start_time_unix_nano,
                ended_ns=span.end_time_unix_nano,
                attributes={each.key: _value(each.value) for each in span.attributes},
                events=tuple(event.name for event in span.events),
                is_error=span.status.code == 2,
            )


def _from_json(body: bytes) -> Iterator[ReceivedSpan]:
    for of_resource in json.loads(body)["resourceSpans"]:
        resource = {each["key"]: _plain(each["value"]) for each in of_resource["resource"]["attributes"]}
        for span in (span for of_scope in of_resource["scopeSpans"] for span in of_scope["spans"]):
            yield ReceivedSpan(
                service=resource["service.name"],
                name=span["name"],
                trace=span["traceId"].lower(),
                id=span["spanId"].lower(),
                parent=span.get("parentSpanId", "").lower(),
                begun_ns=int(span["startTimeUnixNano"]),
                ended_ns=int(span["endTimeUnixNano"]),
                attributes={each["key"]: _plain(each["value"]) for each in span.get("attributes", [])},
                events=tuple(event["name"] for event in span.get("events", [])),
                is_error=span.get("status", {}).get("code") == 2,
            )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def _plain(value: dict[str, Any]) -> Any:
    return next(iter(value.values()))
