"""Traces that go on at the server: by OpenTelemetry, or by hand."""

import asyncio
import contextvars
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from fathom_client import AsyncClient, Client, InvalidArgumentError, TraceContext

from . import triton
from .conftest import REPOSITORY
from .grpc_server import Answering, serving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OTHER = "1bf7651916cd43dd8448eb211c80319d"
HEADER = f"00-{TRACE}-{SPAN}-01"


def span() -> NonRecordingSpan:
    """A span as OpenTelemetry has it, of another trace."""
    state = TraceState([("vendor", "value")])
    return NonRecordingSpan(SpanContext(int(OTHER, 16), int(SPAN, 16), False, TraceFlags(1), state))


async def test_span_of_opentelemetry_goes_along() -> None:
    """The current span's context is in the metadata of streams and unary calls of both clients, if there is one."""
    server = Answering("one")
    with serving(server) as (url,):
        with Client(url) as client:
            client.generate("chat", "a")
            with trace.use_span(span()):
                client.generate("chat", "a")
                client.count_tokens("chat", "a")
        async with AsyncClient(url) as async_client:
            with trace.use_span(span()):
                await async_client.generate("chat", "a")
                await async_client.count_tokens("chat", "a")
    assert "traceparent" not in server.metadata[0]
    for metadata in server.metadata[1:]:
        assert metadata["traceparent"] == f"00-{OTHER}-{SPAN}-01"
        assert metadata["tracestate"] == "vendor=value"


async def test_header_given_by_hand_goes_before() -> None:
    """``TraceContext.use`` holds within its block and its thread or task, and before OpenTelemetry's span."""
    server = Answering("one")
    with serving(server) as (url,), Client(url) as client:
        with TraceContext(HEADER, "a=b").use():
            with trace.use_span(span()):
                client.generate("chat", "a")
            thread = threading.Thread(target=client.generate, args=("chat", "a"))
            contextvars.Context().run(thread.start)
            thread.join()
        client.generate("chat", "a")
        async with AsyncClient(url) as async_client:

            async def ask(context: TraceContext) -> None:
                with context.use():
                    await asyncio.sleep(0)
                    await async_client.count_tokens("chat", "a")

            await asyncio.gather(ask(TraceContext(HEADER)), ask(TraceContext(HEADER.replace(TRACE, OTHER))))
    first, other_thread, after = server.metadata[:3]
    assert (first["traceparent"], first["tracestate"]) == (HEADER, "a=b")
    assert "traceparent" not in other_thread
    assert "traceparent" not in after
    assert {each["traceparent"] for each in server.metadata[3:]} == {HEADER, HEADER.replace(TRACE, OTHER)}


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes OpenTelemetry's spans over HTTP."""

    bodies: list[bytes]

    def do_POST(self) -> None:
        """Keep the body."""
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[http.server.ThreadingHTTPServer]:
    """An OpenTelemetry collector."""
    Collector.bodies = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_tritons_spans_belong_to_the_callers_trace(collector: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    """A real server in OpenTelemetry mode exports spans of the trace that the client passed on."""
    port = collector.server_address[1]
    server = triton.start(
        REPOSITORY,
        tmp_path,
        "--trace-config=mode=opentelemetry",
        "--trace-config=rate=1",
        "--trace-config=level=TIMESTAMPS",
        f"--trace-config=opentelemetry,url=http://127.0.0.1:{port}/v1/traces",
        "--trace-config=opentelemetry,bsp_schedule_delay=100",
    )
    try:
        with Client(server.url) as client:
            client.wait_until_ready(10)
            wanted = [(TRACE.encode(), bytes.fromhex(TRACE)), (OTHER.encode(), bytes.fromhex(OTHER))]
            deadline = time.monotonic() + 20
            while not all(any(form in body for body in Collector.bodies for form in forms) for forms in wanted):
                assert time.monotonic() < deadline, f"{len(Collector.bodies)} exports, not of both traces"
                with TraceContext(HEADER).use():
                    client.embed("minilm", "hello")
                with trace.use_span(span()):
                    client.generate("chat", "hello")
                time.sleep(0.2)  # one of Triton's batches
    finally:
        server.kill()


@pytest.mark.parametrize(
    "header", ["", "00-abc", HEADER.upper(), f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", HEADER + "\n", None]
)
def test_header_of_another_form_is_refused(header: str | None) -> None:
    """What is no traceparent is refused where it is given, not at the server."""
    with pytest.raises(InvalidArgumentError, match=r"traceparent is .*; give VERSION-TRACE-PARENT-FLAGS"):
        TraceContext(header)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="tracestate is"):
        TraceContext(HEADER, "a=\n")
