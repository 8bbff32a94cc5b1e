"""What the twin of an LLM counts and times, as the engine does; written and read from any thread."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from fathom_client import metric_names as names

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A family's name, and the labels of one of its series beside ``model``."""

_NEVER_COUNTED: Final = (names.PREFIX_CACHE_HITS, names.PREEMPTIONS, names.DRAFT_TOKENS, names.ACCEPTED_TOKENS)
_TIMES: Final = (
    names.TIME_TO_FIRST_TOKEN,
    names.INTER_TOKEN_LATENCY,
    names.END_TO_END_LATENCY,
    names.QUEUE_TIME,
    names.PREFILL_TIME,
    names.DECODE_TIME,
)
_PRECISION: Final = "none"
"""A twin has no weights."""

_STEP_KINDS: Final = ("prefill", "decode", "mixed")


class Histogram:
    """Times in seconds by bucket: ``counts[i]`` lie above bound i - 1 and up to bound i."""

    def __init__(self) -> None:
        self.counts = [0] * (len(names.BUCKET_BOUNDS_S) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(names.BUCKET_BOUNDS_S, seconds)] += 1
        self.sum += seconds

    def series(self, name: str, labels: tuple[tuple[str, str], ...] = ()) -> Iterator[tuple[Series, float]]:
        """Give the three families of a histogram, as Prometheus stores it."""
        totals = list(accumulate(self.counts))
        bounds = (*(f"{bound:g}" for bound in names.BUCKET_BOUNDS_S), "+Inf")
        for bound, total in zip(bounds, totals, strict=True):
            yield (f"{name}_bucket", (*labels, (names.BUCKET_BOUND, bound))), total
        yield (f"{name}_sum", labels), self.sum
        yield (f"{name}_count", labels), totals[-1]


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """When one answer arrived, was admitted, and gave its first and its last token; one monotonic clock, seconds."""

    arrived_s: float
    admitted_s: float
    first_s: float
    last_s: float


@dataclass(slots=True)
class TwinMetrics:
    """Counters and histograms since the start; ``changed`` is set whenever one of them, or the load, changes."""

    changed: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _prompt_tokens: int = 0
    _generation_tokens: int = 0
    _begun: int = 0
    _ends: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(names.FINISHED_REASONS, 0)))
    _times: Mapping[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in _TIMES})

    def admitted(self, prompt_tokens: int, waited_s: float) -> None:
        """Count a request that begins to run."""
        with self._lock:
            self._prompt_tokens += prompt_tokens
            self._times[names.QUEUE_TIME].observe(waited_s)
        self.changed.set()

    def sent(self, tokens: int) -> None:
        """Count tokens that went."""
        with self._lock:
            self._generation_tokens += tokens

    def first_token(self, times: AnswerTimes) -> None:
        """Time the beginning of an answer."""
        with self._lock:
            self._begun += 1
            self._times[names.TIME_TO_FIRST_TOKEN].observe(times.first_s - times.arrived_s)
            self._times[names.PREFILL_TIME].observe(times.first_s - times.admitted_s)

    def answered(self, reason: str, times: AnswerTimes, tokens: int) -> None:
        """Count a whole answer, and time it."""
        with self._lock:
            self._ends[reason] += 1
            self._times[names.DECODE_TIME].observe(times.last_s - times.first_s)
            self._times[names.END_TO_END_LATENCY].observe(times.last_s - times.arrived_s)
            if tokens > 1:
                self._times[names.INTER_TOKEN_LATENCY].observe((times.last_s - times.first_s) / (tokens - 1))
        self.changed.set()

    def failed(self, reason: str) -> None:
        """Count a request that ended without its whole answer: cancelled, deadline or error."""
        with self._lock:
            self._ends[reason] += 1
        self.changed.set()

    def counters(self) -> list[tuple[Series, float]]:
        """Give every counter as it stands; what a twin has not (steps, speculation, a prefix cache) stays 0."""
        with self._lock:
            found: list[tuple[Series, float]] = [
                ((names.PREFIX_CACHE_QUERIES, ()), self._prompt_tokens),
                ((names.PROMPT_TOKENS, ()), self._prompt_tokens),
                ((names.GENERATION_TOKENS, ()), self._generation_tokens),
                *(((name, ()), 0) for name in _NEVER_COUNTED),
                ((names.REQUESTS_BY_PRECISION, ((names.PRECISION, _PRECISION),)), self._begun),
                *(((names.REQUEST_ENDS, ((names.FINISHED_REASON, reason),)), n) for reason, n in self._ends.items()),
            ]
            for name, histogram in self._times.items():
                found += histogram.series(name)
        for kind in _STEP_KINDS:
            found += Histogram().series(names.STEP_TIME, ((names.STEP_KIND, kind),))
        return found
