"""The figures of a report: name, unit and formula, by AIPerf's definitions (``aiperf/metrics/types``).

Latencies and token counts are those of requests that succeeded. A response counts when it carries tokens: a last
response that only names the finish reason ends no interval.
"""

from dataclasses import dataclass
from typing import Final


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
    Figure("due_ttft_ms", "TTFT from the intended start", "ms", "first response − time at which the request was due"),
    Figure(
        "due_request_latency_ms",
        "Request latency from the intended start",
        "ms",
        "last response − time at which the request was due",
    ),
    Figure("send_delay_ms", "Send delay", "ms", "request start − time at which the request was due"),
    Figure("input_tokens", "Input tokens", "tokens", "a request's tokens as the server counts them"),
    Figure("output_tokens", "Output tokens", "tokens", "an answer's tokens as the server counts them"),
)
"""Figures with statistics, one value a request unless the formula says otherwise; those from the intended start are of
open loops and traces only."""

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
        "requests that meet all their SLOs, in an open loop from their intended start / (last response − first "
        "request); a missing figure meets none",
    ),
    Figure("error_rate", "Error rate", "share", "failed requests / all requests"),
)
"""Figures with one value a stage."""
