"""What the gateway counts, for Prometheus: by route, status and the key's name, never by key, address or text."""

import time
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from fathom_server.gateway.edge import metric_names as names
from fathom_server.gateway.edge.request_record import UNKNOWN, RequestRecord

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)
"""Upper bounds of the histograms' buckets, in seconds: from a health check to the longest answer."""


class GatewayMetrics:
    """One gateway's counters, in a registry of their own, and those of its process."""

    def __init__(self) -> None:
        # a second series for each, that says when it began
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        by_route = (names.ROUTE, names.KEY)
        self._requests = Counter(
            names.REQUESTS,
            "Requests that ended, by HTTP status; 499 where the caller hung up before the end.",
            (names.ROUTE, names.STATUS, names.KEY),
            registry=self._registry,
        )
        self._duration = Histogram(
            names.REQUEST_DURATION,
            "From the request's head to the end of the answer.",
            by_route,
            buckets=SECONDS,
            registry=self._registry,
        )
        self._first_output = Histogram(
            names.TIME_TO_FIRST_TOKEN,
            "Of streamed answers: from the request's head to the first bytes of the answer.",
            by_route,
            buckets=SECONDS,
            registry=self._registry,
        )
        self._input_tokens = Counter(
            names.INPUT_TOKENS, "Tokens of prompts and texts read.", by_route, registry=self._registry
        )
        self._output_tokens = Counter(names.OUTPUT_TOKENS, "Tokens generated.", by_route, registry=self._registry)
        self._in_flight = Gauge(
            names.REQUESTS_IN_FLIGHT, "Requests being served.", (names.ROUTE,), registry=self._registry
        )
        self._rejected = Counter(
            names.REJECTED,
            "Requests turned away before a model was asked: key, concurrency, requests_per_minute, tokens_per_minute, "
            "body, head (no HTTP, or headers too large or too slow), connections; and reader, which does not read.",
            (names.REASON, names.KEY),
            registry=self._registry,
        )
        self._connections = Gauge(names.CONNECTIONS, "Open connections.", registry=self._registry)
        self._target_ready = Gauge(
            names.TARGET_READY,
            "Whether Triton was ready with all its models when these metrics were asked for: 1 or 0.",
            registry=self._registry,
        )

    def begin(self, record: RequestRecord) -> None:
        """Count a request in; it must ``end``."""
        self._in_flight.labels(record.route).inc()

    def end(self, record: RequestRecord) -> None:
        """Count a request out."""
        route, key = record.route, record.key_name or UNKNOWN
        self._in_flight.labels(route).dec()
        self._requests.labels(route, str(record.final_status), key).inc()
        self._duration.labels(route, key).observe(time.perf_counter() - record.begun_s)
        if record.first_output_s is not None:
            self._first_output.labels(route, key).observe(record.first_output_s - record.begun_s)
        if record.input_tokens:
            self._input_tokens.labels(route, key).inc(record.input_tokens)
        if record.output_tokens:
            self._output_tokens.labels(route, key).inc(record.output_tokens)
        if record.rejected is not None:
            self.reject(record.rejected, key)

    def reject(self, reason: str, key: str = UNKNOWN) -> None:
        """Count a request that was turned away."""
        self._rejected.labels(reason, key).inc()

    def connect(self) -> None:
        """Count a connection in."""
        self._connections.inc()

    def disconnect(self) -> None:
        """Count a connection out."""
        self._connections.dec()

    def note_target(self, *, is_ready: bool) -> None:
        """Note whether Triton is ready."""
        self._target_ready.set(is_ready)

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self._registry)
