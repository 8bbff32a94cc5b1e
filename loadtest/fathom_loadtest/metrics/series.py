"""What happened in each second of a stage."""

import math
from dataclasses import dataclass, field
from typing import Any, Final, Self

from fathom_loadtest.metrics.request import itl_ms, request_latency_ms, ttft_ms
from fathom_loadtest.record import RequestRecord

MOST_BUCKETS: Final = 3600
"""A stage of more seconds than these gets buckets of 2 s, then of 4 s, and so on."""
LATENCIES: Final = {"ttft_ms": ttft_ms, "itl_ms": itl_ms, "request_latency_ms": request_latency_ms}
_NS_PER_S: Final = 1_000_000_000
_MANTISSA: Final = 64


@dataclass(frozen=True, slots=True)
class Series:
    """Time series of a stage, a value for each bucket of ``bucket_s`` seconds.

    Bucket k begins ``start_s + k * bucket_s`` seconds after the stage opened. ``started``, ``succeeded``, ``failed``
    and ``cancelled`` count requests by when they were sent and when they ended; ``in_flight`` are under way at the
    bucket's end. ``output_tokens`` arrived in the bucket, whatever became of their request. The latencies, ms, are of
    requests that succeeded, by when they ended, within 1.6 %; None where none did.
    """

    bucket_s: float
    start_s: float
    started: tuple[int, ...] = ()
    succeeded: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    cancelled: tuple[int, ...] = ()
    in_flight: tuple[int, ...] = ()
    output_tokens: tuple[int, ...] = ()
    ttft_ms_p50: tuple[float | None, ...] = ()
    ttft_ms_p95: tuple[float | None, ...] = ()
    itl_ms_p50: tuple[float | None, ...] = ()
    itl_ms_p95: tuple[float | None, ...] = ()
    request_latency_ms_p50: tuple[float | None, ...] = ()
    request_latency_ms_p95: tuple[float | None, ...] = ()


@dataclass(slots=True)
class _Bucket:
    """One bucket's counts, and its latencies as numbers by place: 32 places between a power of two and the next."""

    started: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    output_tokens: int = 0
    latencies: dict[str, dict[int, int]] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        """Count one latency."""
        fraction, exponent = math.frexp(value)
        place = exponent * _MANTISSA + int(fraction * _MANTISSA)
        places = self.latencies.setdefault(name, {})
        places[place] = places.get(place, 0) + 1

    def merge(self, other: "_Bucket") -> None:
        """Take another bucket's counts."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, places in other.latencies.items():
            own = self.latencies.setdefault(name, {})
            for place, number in places.items():
                own[place] = own.get(place, 0) + number

    def percentile(self, name: str, percentile: int) -> float | None:
        """Give the middle of the place that holds the percentile; None without values."""
        places = self.latencies.get(name)
        if not places:
            return None
        left = percentile / 100 * (sum(places.values()) - 1)
        for place in sorted(places):
            left -= places[place]
            if left < 0:
                break
        exponent, fraction = divmod(place, _MANTISSA)
        return math.ldexp((fraction + 0.5) / _MANTISSA, exponent) if place else 0.0


_COUNTS: Final = ("started", "succeeded", "failed", "cancelled", "output_tokens")


class SeriesTally:
    """Collects a stage's buckets from its records in any order; several processes' tallies merge.

    Buckets are those of the records' clock, so that they need no common beginning.
    """

    def __init__(self, width_ns: int = _NS_PER_S) -> None:
        self._width_ns = width_ns
        self._buckets: dict[int, _Bucket] = {}

    def add(self, record: RequestRecord) -> None:
        """Take one record."""
        self._at(record.start_ns).started += 1
        for at, tokens in zip(record.response_ns, record.response_tokens, strict=True):
            if tokens:
                self._at(at).output_tokens += tokens
        ended = self._at(record.end_ns)
        if record.cancelled:
            ended.cancelled += 1
        elif record.succeeded:
            ended.succeeded += 1
            for name, latency in LATENCIES.items():
                value = latency(record)
                if value is not None:
                    ended.note(name, value)
        else:
            ended.failed += 1
        while len(self._buckets) > MOST_BUCKETS:
            self._widen()

    def merge(self, other: "SeriesTally") -> None:
        """Take another tally's buckets."""
        while self._width_ns < other._width_ns:
            self._widen()
        factor = self._width_ns // other._width_ns
        for place, bucket in other._buckets.items():
            self._buckets.setdefault(place // factor, _Bucket()).merge(bucket)
        while len(self._buckets) > MOST_BUCKETS:
            self._widen()

    def series(self, opened_ns: int) -> Series:
        """Lay the buckets in order, those in which nothing happened included."""
        bucket_s = self._width_ns / _NS_PER_S
        if not self._buckets:
            return Series(bucket_s, 0.0)
        first, last = min(self._buckets), max(self._buckets)
        buckets = [self._buckets.get(place, _Bucket()) for place in range(first, last + 1)]
        columns: dict[str, list[Any]] = {name: [getattr(bucket, name) for bucket in buckets] for name in _COUNTS}
        under_way, columns["in_flight"] = 0, []
        for bucket in buckets:
            under_way += bucket.started - bucket.succeeded - bucket.failed - bucket.cancelled
            columns["in_flight"].append(under_way)
        for name in LATENCIES:
            for percentile in (50, 95):
                columns[f"{name}_p{percentile}"] = [bucket.percentile(name, percentile) for bucket in buckets]
        start_s = (first * self._width_ns - opened_ns) / _NS_PER_S
        return Series(bucket_s, start_s, **{name: tuple(values) for name, values in columns.items()})

    def to_state(self) -> dict[str, Any]:
        """Everything in plain values, for another process."""
        buckets = [
            [place, [getattr(b, name) for name in _COUNTS], {name: list(p.items()) for name, p in b.latencies.items()}]
            for place, b in self._buckets.items()
        ]
        return {"width_ns": self._width_ns, "buckets": buckets}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Undo ``to_state``."""
        self = cls(state["width_ns"])
        for place, counts, latencies in state["buckets"]:
            bucket = self._buckets[place] = _Bucket(*counts)
            bucket.latencies = {name: dict(pairs) for name, pairs in latencies.items()}
        return self

    def _at(self, ns: int) -> _Bucket:
        place = ns // self._width_ns
        bucket = self._buckets.get(place)
        if bucket is None:
            bucket = self._buckets[place] = _Bucket()
        return bucket

    def _widen(self) -> None:
        self._width_ns *= 2
        buckets, self._buckets = self._buckets, {}
        for place, bucket in buckets.items():
            self._buckets.setdefault(place // 2, _Bucket()).merge(bucket)
