"""The figures of one request."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from fathom_loadtest.record import RequestRecord
from fathom_loadtest.scenario import Slo

_NS_PER_MS: Final = 1e6


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


def send_delay_ms(record: RequestRecord) -> float:
    """Request start − time at which it was due; 0 in a closed loop."""
    return (record.start_ns - record.due_ns) / _NS_PER_MS


def meets(record: RequestRecord, slos: Iterable[Slo]) -> bool:
    """Whether a request succeeded and keeps every objective; a figure that it does not have keeps none.

    What is waited for is counted from the time at which the request was due. Objectives of a stream do not concern an
    answer that is none, as the embeddings in a mix: only a stream says why it finished.
    """
    if not record.succeeded or record.cancelled:
        return False
    for slo in slos:
        if slo.name != "request_latency_ms" and record.finish_reason is None:
            continue
        value = _JUDGED[slo.name](record)
        delay = 0.0 if slo.name == "itl_ms" else send_delay_ms(record)
        if value is None or value + delay > slo.limit_ms:
            return False
    return True


_JUDGED: Final = {"ttft_ms": ttft_ms, "itl_ms": itl_ms, "request_latency_ms": request_latency_ms}
