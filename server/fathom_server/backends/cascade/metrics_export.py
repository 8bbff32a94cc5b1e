"""A cascade's metrics on Triton's port, written when requests come and go: each write is a message to Triton."""

from collections.abc import Iterator
from typing import Any

import triton_python_backend_utils as pb_utils

from fathom_client import metric_names as names
from fathom_server.backends.fathom.metrics_export import Series
from fathom_server.cascade.metrics import CascadeMetrics


class CascadeMetricsExport:
    """Writes one cascade's metrics; for one thread."""

    def __init__(self, metrics: CascadeMetrics, model: str) -> None:
        self._source = metrics
        self._model = model
        self._families: dict[str, Any] = {}  # kept, since a family must outlive its metrics
        self._metrics: dict[Series, Any] = {}
        self._written: dict[Series, float] = {}
        self.refresh()

    def refresh(self) -> None:
        """Write what has changed. A drain waits for the gauges."""
        for name, value in ((names.REQUESTS_RUNNING, self._source.running), (names.REQUESTS_WAITING, 0)):
            series: Series = (name, ())
            if self._written.get(series) != value:
                self._metric(series, is_gauge=True).set(value)
                self._written[series] = value
        for series, count in self._counters():
            new = count - self._written.get(series, 0.0)
            if new > 0 or series not in self._written:
                self._metric(series, is_gauge=False).increment(new)
                self._written[series] = count

    def close(self) -> None:
        """Give the metrics back while Triton is still there to take them, each before its family."""
        self._metrics.clear()
        self._families.clear()

    def _counters(self) -> Iterator[tuple[Series, float]]:
        for (role, reason), count in self._source.answers.items():
            yield (names.CASCADE_ANSWERS, ((names.CASCADE_ROLE, role), (names.CASCADE_REASON, reason))), count
        for (role, kind), count in self._source.tokens.items():
            yield (names.CASCADE_TOKENS, ((names.CASCADE_ROLE, role), (names.CASCADE_KIND, kind))), count
        held = self._source.held
        totals = held.cumulative()
        for bound, total in zip((*(f"{bound:g}" for bound in held.bounds), "+Inf"), totals, strict=True):
            yield (f"{names.CASCADE_HELD}_bucket", ((names.BUCKET_BOUND, bound),)), total
        yield (f"{names.CASCADE_HELD}_sum", ()), held.sum
        yield (f"{names.CASCADE_HELD}_count", ()), totals[-1]

    def _metric(self, series: Series, *, is_gauge: bool) -> Any:
        metric = self._metrics.get(series)
        if metric is None:
            name, labels = series
            family = self._families.get(name)
            if family is None:
                kind = pb_utils.MetricFamily.GAUGE if is_gauge else pb_utils.MetricFamily.COUNTER
                base = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
                family = pb_utils.MetricFamily(name=name, description=names.CASCADE_HELP[base], kind=kind)
                self._families[name] = family
            metric = self._metrics[series] = family.Metric(labels={"model": self._model, **dict(labels)})
        return metric
