"""Figures of requests and stages, by AIPerf's definitions."""

from fathom_loadtest.metrics.figures import DISTRIBUTIONS, TOTALS, Figure
from fathom_loadtest.metrics.request import (
    inter_chunk_latencies_ms,
    itl_ms,
    meets,
    request_latency_ms,
    send_delay_ms,
    ttft_ms,
)
from fathom_loadtest.metrics.series import Series
from fathom_loadtest.metrics.stage import StageFigures, StageTally, stage_figures
from fathom_loadtest.metrics.statistics import (
    PERCENTILE_METHOD,
    PERCENTILES,
    STATISTICS,
    Distribution,
    Statistics,
    statistics,
)

__all__ = [
    "DISTRIBUTIONS",
    "PERCENTILES",
    "PERCENTILE_METHOD",
    "STATISTICS",
    "TOTALS",
    "Distribution",
    "Figure",
    "Series",
    "StageFigures",
    "StageTally",
    "Statistics",
    "inter_chunk_latencies_ms",
    "itl_ms",
    "meets",
    "request_latency_ms",
    "send_delay_ms",
    "stage_figures",
    "statistics",
    "ttft_ms",
]
