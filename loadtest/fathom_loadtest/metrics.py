"""Figures of a stage, by AIPerf's definitions (ai-dynamo/aiperf, ``src/aiperf/metrics/types``).

Latencies and token counts are those of requests that succeeded. A response counts when it carries tokens: a last
response that only names the finish reason ends no interval. Percentiles interpolate linearly between the two nearest
values (numpy's ``linear``); the standard deviation divides by n (``ddof=0``).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from fathom_loadtest.recorder import RequestRecord
from fathom_loadtest.scenario import Slo

PERCENTILES: Final = (1, 5, 10, 25, 50, 75, 90, 95, 99)
PERCENTILE_METHOD: Final = "linear interpolation between the two nearest values (numpy.percentile, method 'linear')"
STATISTICS: Final = ("avg", "min", "max", *(f"p{percentile}" for percentile in PERCENTILES), "std")
_NS_PER_MS: Final = 1e6
_NS_PER_S: Final = 1e9


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure's name in reports, its unit and its formula."""

    name: str
    label: str
    unit: str
    formula: str


DISTRIBUTIONS: Final = (
    Figure("ttft_ms", "Time to first token (TTFT)", "ms", "first response − request start"),
    Figure(
        "itl_ms",
        "Inter-token latency (ITL)",
        "ms",
        "(request latency − TTFT) / (output tokens − 1), one value a request",
    ),
    Figure(
        "inter_chunk_latency_ms",
        "Inter-chunk latency",
        "ms",
        "gaps between consecutive responses, of all requests together",
    ),
    Figure("request_latency_ms", "Request latency", "ms", "last response − request start"),
    Figure("input_tokens", "Input tokens", "tokens", "a request's tokens as the server counts them"),
    Figure("output_tokens", "Output tokens", "tokens", "an answer's tokens as the server counts them"),
)
"""Figures with statistics, one value a request unless the formula says otherwise."""

TOTALS: Final = (
    Figure(
        "request_throughput", "Request throughput", "requests/s", "succeeded requests / (last response − first request)"
    ),
    Figure(
        "output_token_throughput",
        "Output token throughput",
        "tokens/s",
        "sum of output tokens / (last response − first request)",
    ),
    Figure(
        "input_token_throughput",
        "Input token throughput",
        "tokens/s",
        "sum of input tokens / (last response − first request)",
    ),
    Figure(
        "goodput",
        "Goodput",
        "requests/s",
        "requests that meet all their SLOs / (last response − first request); a missing figure meets none",
    ),
    Figure("error_rate", "Error rate", "share", "failed requests / all requests"),
)
"""Figures with one value a stage."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of ``count`` values, in the values' own unit."""

    count: int
    avg: float
    min: float
    max: float
    p1: float
    p5: float
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float
    p95: float
    p99: float
    std: float


def statistics(values: Sequence[float]) -> Statistics | None:
    """Statistics of the values; None where there are none."""
    import numpy as np

    if not values:
        return None
    array = np.asarray(values, dtype=np.float64)
    ranks = np.percentile(array, PERCENTILES, method="linear")
    named = {f"p{percentile}": float(rank) for percentile, rank in zip(PERCENTILES, ranks, strict=True)}
    return Statistics(
        count=len(values), avg=float(array.mean()), min=float(array.min()), max=float(array.max()),
        std=float(array.std()), **named,
    )  # fmt: skip


def ttft_ms(record: RequestRecord) -> float | None:
    """First response − request start; None where no response carries tokens."""
    if not record.num_output_tokens or not record.response_ns:
        return None
    return (record.content_ns[0] - record.start_ns) / _NS_PER_MS


def request_latency_ms(record: RequestRecord) -> float | None:
    """Last response − request start; None where nothing was answered."""
    if not record.response_ns:
        return None
    return (record.content_ns[-1] - record.start_ns) / _NS_PER_MS


def itl_ms(record: RequestRecord) -> float | None:
    """(Request latency − TTFT) / (output tokens − 1); None for answers of fewer than two tokens."""
    ttft, latency = ttft_ms(record), request_latency_ms(record)
    if ttft is None or latency is None or record.num_output_tokens < 2:
        return None
    return (latency - ttft) / (record.num_output_tokens - 1)


def inter_chunk_latencies_ms(record: RequestRecord) -> list[float]:
    """Gaps between consecutive responses."""
    times = record.content_ns
    return [(later - earlier) / _NS_PER_MS for earlier, later in pairwise(times)]


def meets(record: RequestRecord, slos: Iterable[Slo]) -> bool:
    """Whether a request succeeded and keeps every objective; a figure that it does not have keeps none."""
    figures = {"ttft_ms": ttft_ms, "itl_ms": itl_ms, "request_latency_ms": request_latency_ms}
    values = ((figures[slo.name](record), slo.limit_ms) for slo in slos)
    return record.succeeded and all(value is not None and value <= limit for value, limit in values)


@dataclass(frozen=True, slots=True)
class StageFigures:
    """Every figure of one stage.

    Throughputs are None where nothing succeeded in a measurable time, goodput also where no SLO was given, and
    statistics where no request has the figure; ``warnings`` says why.
    """

    requests: int
    succeeded: int
    failed: int
    errors: dict[str, int]
    duration_s: float | None
    total_input_tokens: int
    total_output_tokens: int
    ttft_ms: Statistics | None
    itl_ms: Statistics | None
    inter_chunk_latency_ms: Statistics | None
    request_latency_ms: Statistics | None
    input_tokens: Statistics | None
    output_tokens: Statistics | None
    request_throughput: float | None
    output_token_throughput: float | None
    input_token_throughput: float | None
    goodput: float | None
    error_rate: float | None
    warnings: tuple[str, ...]


def stage_figures(records: Sequence[RequestRecord], *, streamed: bool, slos: Sequence[Slo] = ()) -> StageFigures:
    """Compute every figure of one stage from its records; ``streamed`` is false for tasks without output tokens."""
    good = [record for record in records if record.succeeded]
    errors = Counter(record.error_kind for record in records if record.error_kind is not None)
    warnings: list[str] = []

    duration_s = None
    answered = [record for record in good if record.response_ns]
    if answered:
        first_ns = min(record.start_ns for record in answered)
        last_ns = max(record.content_ns[-1] for record in answered)
        duration_s = (last_ns - first_ns) / _NS_PER_S
    if not records:
        warnings.append("no request ended, so there is nothing to measure")
    elif not good:
        warnings.append(f"all {len(records)} requests failed, so there is no latency and no throughput")
    elif not duration_s:
        warnings.append("no time passed between the first request and the last response, so there is no throughput")
        duration_s = None

    def rate(amount: int) -> float | None:
        return amount / duration_s if duration_s else None

    single = sum(1 for record in good if itl_ms(record) is None)
    if streamed and single:
        warnings.append(f"{single} of {len(good)} answers have fewer than two output tokens and so no ITL")

    def present(values: Iterable[float | None]) -> list[float]:
        return [value for value in values if value is not None]

    total_input = sum(record.num_input_tokens for record in good)
    total_output = sum(record.num_output_tokens for record in good)
    return StageFigures(
        requests=len(records),
        succeeded=len(good),
        failed=len(records) - len(good),
        errors=dict(errors.most_common()),
        duration_s=duration_s,
        total_input_tokens=total_input,
        total_output_tokens=total_output,
        ttft_ms=statistics(present(map(ttft_ms, good))) if streamed else None,
        itl_ms=statistics(present(map(itl_ms, good))) if streamed else None,
        inter_chunk_latency_ms=(
            statistics([gap for record in good for gap in inter_chunk_latencies_ms(record)]) if streamed else None
        ),
        request_latency_ms=statistics(present(map(request_latency_ms, good))),
        input_tokens=statistics([float(record.num_input_tokens) for record in good]),
        output_tokens=statistics([float(record.num_output_tokens) for record in good]) if streamed else None,
        request_throughput=rate(len(good)),
        output_token_throughput=rate(total_output) if streamed else None,
        input_token_throughput=rate(total_input),
        goodput=rate(sum(meets(record, slos) for record in good)) if slos else None,
        error_rate=(len(records) - len(good)) / len(records) if records else None,
        warnings=tuple(warnings),
    )
