"""What the engine counts and times; read from any thread, written by the engine's alone."""

from bisect import bisect_left
from dataclasses import dataclass, field

from fathom_client.metric_names import BUCKET_BOUNDS_S


class Histogram:
    """Times in seconds by bucket, as Prometheus has them: ``counts[i]`` lie above bound i - 1 and up to bound i."""

    def __init__(self, bounds: tuple[float, ...] = BUCKET_BOUNDS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def cumulative(self) -> list[int]:
        """How many lie up to each bound, and last how many there are."""
        total, totals = 0, []
        for count in self.counts:
            total += count
            totals.append(total)
        return totals


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy the engine is: requests that run and that wait, and the share of the cache's blocks that is held.

    None where nobody knows.
    """

    running: int
    waiting: int
    cache_usage: float | None = 0.0


@dataclass(slots=True)
class EngineMetrics:
    """Counters and histograms since the engine's start; times in seconds, one value a request.

    ``inter_token`` is AIPerf's inter-token latency: time from the first to the last token of an answer over the tokens
    between. ``prefix_queries`` and ``prefix_hits`` count prompt tokens that were looked for in the cache and found.
    ``steps`` are by kind: "prefill", "decode", or "mixed" of both; ``by_precision`` counts requests whose answers have
    begun, by the weights that compute them.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    by_precision: dict[str, int] = field(default_factory=dict)
    time_to_first_token: Histogram = field(default_factory=Histogram)
    inter_token: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    prefill: Histogram = field(default_factory=Histogram)
    decode: Histogram = field(default_factory=Histogram)
    end_to_end: Histogram = field(default_factory=Histogram)
    steps: dict[str, Histogram] = field(
        default_factory=lambda: {kind: Histogram() for kind in ("prefill", "decode", "mixed")}
    )

    def count_admission(self, waited_s: float, prompt_tokens: int, cached_tokens: int) -> None:
        """Count a request whose turn has come, and how much of its prompt stood in the cache."""
        self.queue.observe(waited_s)
        self.prompt_tokens += prompt_tokens
        self.prefix_queries += prompt_tokens
        self.prefix_hits += cached_tokens

    def count_first_token(self, since_created_s: float, since_admitted_s: float, precision: str) -> None:
        """Count a request whose answer has begun, by the weights that compute it."""
        self.by_precision[precision] += 1
        self.time_to_first_token.observe(since_created_s)
        self.prefill.observe(since_admitted_s)

    def count_answered(self, since_created_s: float, since_first_token_s: float, tokens: int) -> None:
        """Count a request whose answers have all ended; ``tokens`` are those of the longest."""
        self.end_to_end.observe(since_created_s)
        self.decode.observe(since_first_token_s)
        if tokens > 1:
            self.inter_token.observe(since_first_token_s / (tokens - 1))

    def count_end(self, reason: str) -> None:
        """Count an answer, or a request that failed, by the reason of its end."""
        self.ends[reason] = self.ends.get(reason, 0) + 1
