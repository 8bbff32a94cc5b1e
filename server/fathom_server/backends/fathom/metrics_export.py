"""The engine's metrics on Triton's metrics port.

Every write is a message to Triton's own process, so only what has changed is written: how many requests run and wait
at once, since a drain waits for it, the rest at most every ``INTERVAL_S`` while there are requests, and whenever the
engine falls idle.
"""

import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import triton_python_backend_utils as pb_utils

from fathom_client import metric_names as names
from fathom_server.backends.fathom.served_engine import ServedEngine
from fathom_server.engine.metrics import EngineMetrics, Histogram

INTERVAL_S: Final = 1.0

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A family's name and the labels of one of its series."""


class MetricsExport:
    """Writes one engine's metrics; ``refresh`` may be called from any thread."""

    def __init__(self, engine: ServedEngine, model: str) -> None:
        self._engine = engine
        self._model = model
        self._families: dict[str, Any] = {}  # kept, since a family must outlive its metrics
        self._metrics: dict[Series, Any] = {}
        self._written: dict[Series, float] = {}
        self._due = 0.0
        self._lock = threading.Lock()
        self._metric((names.ENGINE_START, ()), gauge=True).set(time.time())
        self.refresh()

    def refresh(self) -> None:
        """Write what has changed and is due."""
        with self._lock:
            load = self._engine.load()
            now = time.monotonic()
            has_changed = self._write_gauge(names.REQUESTS_RUNNING, load.running)
            has_changed |= self._write_gauge(names.REQUESTS_WAITING, load.waiting)
            is_due = now >= self._due or load.running + load.waiting == 0
            if is_due or has_changed:
                self._write_gauge(names.KV_CACHE_USAGE, load.cache_usage)
            if is_due:
                self._due = now + INTERVAL_S
                self._write_counters()

    def close(self) -> None:
        """Give the metrics back while Triton is still there to take them, each before its family."""
        with self._lock:
            self._metrics.clear()
            self._families.clear()

    def _write_gauge(self, name: str, value: float | None) -> bool:
        """Write a gauge unless it stands as it is; returns whether it was written."""
        if value is None or self._written.get((name, ())) == value:
            return False
        self._metric((name, ()), gauge=True).set(value)
        self._written[(name, ())] = value
        return True

    def _write_counters(self) -> None:
        for series, value in _counters(self._engine.metrics):
            new = value - self._written.get(series, 0.0)
            if new > 0 or series not in self._written:
                self._metric(series, gauge=False).increment(new)
                self._written[series] = value

    def _metric(self, series: Series, *, gauge: bool) -> Any:
        metric = self._metrics.get(series)
        if metric is None:
            name, labels = series
            family = self._families.get(name)
            if family is None:
                kind = pb_utils.MetricFamily.GAUGE if gauge else pb_utils.MetricFamily.COUNTER
                base = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
                family = pb_utils.MetricFamily(name=name, description=names.HELP[base], kind=kind)
                self._families[name] = family
            metric = family.Metric(labels={"model": self._model, **dict(labels)})
            self._metrics[series] = metric
        return metric


def _counters(metrics: EngineMetrics) -> Iterator[tuple[Series, float]]:
    for name, value in (
        (names.PREFIX_CACHE_QUERIES, metrics.prefix_queries),
        (names.PREFIX_CACHE_HITS, metrics.prefix_hits),
        (names.PROMPT_TOKENS, metrics.prompt_tokens),
        (names.GENERATION_TOKENS, metrics.generation_tokens),
        (names.PREEMPTIONS, metrics.preemptions),
        (names.DRAFT_TOKENS, metrics.draft_tokens),
        (names.ACCEPTED_TOKENS, metrics.accepted_tokens),
    ):
        yield (name, ()), value
    for reason, count in (dict.fromkeys(names.FINISHED_REASONS, 0) | metrics.ends).items():
        yield (names.REQUEST_ENDS, ((names.FINISHED_REASON, reason),)), count
    for precision, count in tuple(metrics.by_precision.items()):
        yield (names.REQUESTS_BY_PRECISION, ((names.PRECISION, precision),)), count
    for name, histogram in (
        (names.TIME_TO_FIRST_TOKEN, metrics.time_to_first_token),
        (names.INTER_TOKEN_LATENCY, metrics.inter_token),
        (names.END_TO_END_LATENCY, metrics.end_to_end),
        (names.QUEUE_TIME, metrics.queue),
        (names.PREFILL_TIME, metrics.prefill),
        (names.DECODE_TIME, metrics.decode),
    ):
        yield from _histogram(name, histogram, ())
    for kind, histogram in metrics.steps.items():
        yield from _histogram(names.STEP_TIME, histogram, ((names.STEP_KIND, kind),))


def _histogram(name: str, histogram: Histogram, labels: tuple[tuple[str, str], ...]) -> Iterator[tuple[Series, float]]:
    totals = histogram.cumulative()
    for bound, total in zip((*map(_bound, histogram.bounds), "+Inf"), totals, strict=True):
        yield (f"{name}_bucket", (*labels, (names.BUCKET_BOUND, bound))), total
    yield (f"{name}_sum", labels), histogram.sum
    yield (f"{name}_count", labels), totals[-1]


def _bound(seconds: float) -> str:
    return f"{seconds:g}"
