"""Spans of a request in the engine: queue, prefill and decode, within the span that Triton made for it."""

import json
import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fathom_server.backends.fathom.request_outcome import RequestOutcome

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_NS: Final = 1_000_000_000
_W3C: Final = TraceContextTextMapPropagator()


class EngineSpans:
    """Writes the spans of requests that have ended; ``close`` sends the last."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("fathom.engine")

    def write(self, outcome: RequestOutcome, triton_context: str) -> None:
        """Write one request's; ``triton_context`` is the span of Triton's, as its Python API gives it (JSON)."""
        parent = _W3C.extract(json.loads(triton_context))
        offset_ns = time.time_ns() - time.monotonic_ns()
        attributes: dict[str, Any] = {
            "gen_ai.request.model": outcome.model,
            "fathom.request_id": outcome.request_id,
            "gen_ai.usage.input_tokens": outcome.input_tokens,
            "gen_ai.usage.output_tokens": outcome.output_tokens,
            "fathom.cached_tokens": outcome.cached_tokens,
        }
        if outcome.finish_reasons:
            attributes["gen_ai.response.finish_reasons"] = outcome.finish_reasons
        failure = None if outcome.error is None else Status(StatusCode.ERROR, outcome.error)
        whole = self._span("engine", parent, (outcome.created, outcome.ended), offset_ns, attributes, failure)
        for name, begun, ended in outcome.phases():
            self._span(name, whole, (begun, ended), offset_ns, {}, None)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _span(
        self,
        name: str,
        parent: Context,
        between: tuple[float, float],
        offset_ns: int,
        attributes: dict[str, Any],
        status: Status | None,
    ) -> Context:
        """Write a span; ``between`` are instants of ``time.monotonic``. Returns the context of those within it."""
        begun, ended = (int(each * _NS) + offset_ns for each in between)
        span = self._tracer.start_span(name, parent, SpanKind.INTERNAL, attributes, start_time=begun)
        if status is not None:
            span.set_status(status)
        span.end(ended)
        return set_span_in_context(span, parent)
