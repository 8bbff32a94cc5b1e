"""The twin's metrics on Triton's metrics port, under the engine's names.

Every write is a message to Triton's own process, so only what has changed is written: the gauges soon, since a drain
waits for them, the rest at most every ``COUNTERS_S`` while there are requests, and whenever the twin falls idle.
"""

import threading
import time
from typing import Any, Final

import triton_python_backend_utils as pb_utils

from fathom_client import metric_names as names
from fathom_loadtest.twin.admission import Admission
from fathom_loadtest.twin.metrics import Series, TwinMetrics

GAUGES_S: Final = 0.05
COUNTERS_S: Final = 0.5
_SUFFIXES: Final = ("_bucket", "_sum", "_count")


class MetricsExport:
    """Writes one model's metrics on a thread of its own."""

    def __init__(self, metrics: TwinMetrics, admission: Admission[Any], max_batch: int, model: str) -> None:
        self._metrics = metrics
        self._admission = admission
        self._max_batch = max_batch
        self._model = model
        self._families: dict[str, Any] = {}  # kept, since a family must outlive its metrics
        self._series: dict[Series, Any] = {}
        self._written: dict[Series, float] = {}
        self._closing = threading.Event()
        self._write([((names.ENGINE_START, ()), time.time()), *self._gauges()], gauge=True)
        self._write(metrics.counters(), gauge=False)
        self._thread = threading.Thread(target=self._run, name="fathom-twin-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and give the metrics back, each before its family."""
        self._closing.set()
        self._metrics.changed.set()
        self._thread.join()
        self._series.clear()
        self._families.clear()

    def _run(self) -> None:
        due_s = 0.0
        is_busy = False
        while not self._closing.is_set():
            self._metrics.changed.wait(COUNTERS_S if is_busy else None)
            self._metrics.changed.clear()
            gauges = self._gauges()
            is_busy = any(value for _, value in gauges)
            if time.monotonic() >= due_s or not is_busy:
                due_s = time.monotonic() + COUNTERS_S
                self._write(self._metrics.counters(), gauge=False)
            self._write(gauges, gauge=True)
            self._closing.wait(GAUGES_S)

    def _gauges(self) -> list[tuple[Series, float]]:
        running, waiting = self._admission.load()
        return [
            ((names.KV_CACHE_USAGE, ()), running / self._max_batch),
            ((names.REQUESTS_RUNNING, ()), running),
            ((names.REQUESTS_WAITING, ()), waiting),
        ]

    def _write(self, values: list[tuple[Series, float]], *, gauge: bool) -> None:
        for series, value in values:
            before = self._written.get(series)
            if value == before:
                continue
            metric = self._metric(series, gauge=gauge)
            if gauge:
                metric.set(value)
            else:
                metric.increment(value - (before or 0.0))
            self._written[series] = value

    def _metric(self, series: Series, *, gauge: bool) -> Any:
        metric = self._series.get(series)
        if metric is None:
            name, labels = series
            family = self._families.get(name)
            if family is None:
                suffix = next((each for each in _SUFFIXES if name.endswith(each)), "")
                kind = pb_utils.MetricFamily.GAUGE if gauge else pb_utils.MetricFamily.COUNTER
                about = names.HELP[name.removesuffix(suffix)]
                family = self._families[name] = pb_utils.MetricFamily(name=name, description=about, kind=kind)
            metric = self._series[series] = family.Metric(labels={"model": self._model, **dict(labels)})
        return metric
