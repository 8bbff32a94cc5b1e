"""A span for each request at the gateway: the beginning of a trace, or a part of the caller's."""

import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fathom_client import TraceContext
from fathom_server.gateway.edge.access_log import WATCHERS
from fathom_server.gateway.edge.request_record import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

METHODS: Final = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"})
_NS: Final = 1_000_000_000
_W3C: Final = TraceContextTextMapPropagator()


class RequestSpans:
    """Makes spans after OpenTelemetry's conventions for HTTP servers and for generative models."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._tracer = provider.get_tracer("fathom.gateway")

    def begin(self, record: RequestRecord) -> Span | None:
        """Begin the span of a request, and make it what Triton is told; None for probes and scrapes.

        A trace that is not kept is not told: Triton 2.51 traces all that comes with a context, whatever its flag says.
        """
        if record.route in WATCHERS:
            return None
        method = record.method if record.method in METHODS else "_OTHER"
        span = self._tracer.start_span(
            f"{method} {record.route}",
            _W3C.extract(_carrier(record.trace)),
            SpanKind.SERVER,
            {
                "http.request.method": method,
                "http.route": record.route,
                "client.address": record.address,
                "fathom.request_id": record.request_id,
            },
        )
        record.trace = _context_of(span)
        return span

    def end(self, span: Span, record: RequestRecord) -> None:
        """End a request's span with what became of it."""
        attributes: dict[str, Any] = {"http.response.status_code": record.final_status}
        if record.model is not None:
            attributes["gen_ai.request.model"] = record.model
        if record.key_name is not None:
            attributes["fathom.key"] = record.key_name
        if record.rejected is not None:
            attributes["fathom.rejected"] = record.rejected
        if record.input_tokens or record.output_tokens:
            attributes["gen_ai.usage.input_tokens"] = record.input_tokens
            attributes["gen_ai.usage.output_tokens"] = record.output_tokens
        span.set_attributes(attributes)
        if record.first_output_s is not None:
            ago_s = time.perf_counter() - record.first_output_s
            span.add_event("first output", timestamp=time.time_ns() - int(ago_s * _NS))
        if record.final_status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def _carrier(trace: TraceContext | None) -> dict[str, str]:
    if trace is None:
        return {}
    state = {} if trace.tracestate is None else {"tracestate": trace.tracestate}
    return {"traceparent": trace.traceparent, **state}


def _context_of(span: Span) -> TraceContext | None:
    """What goes on to Triton of a span that is kept."""
    context = span.get_span_context()
    if not context.trace_flags.sampled:
        return None
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return TraceContext(parent, context.trace_state.to_header() or None)
