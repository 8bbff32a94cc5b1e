"""Every figure of a stage, collected record by record in bounded memory."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from fathom_loadtest.metrics.request import (
    inter_chunk_latencies_ms,
    itl_ms,
    meets,
    request_latency_ms,
    send_delay_ms,
    ttft_ms,
)
from fathom_loadtest.metrics.series import Series, SeriesTally
from fathom_loadtest.metrics.statistics import Distribution, Statistics
from fathom_loadtest.record import RequestRecord
from fathom_loadtest.scenario import Slo

_NS_PER_S: Final = 1e9


@dataclass(frozen=True, slots=True)
class StageFigures:
    """Every figure of one stage, or of one task in it.

    ``cancelled`` requests were left by the scenario itself and have no figures. Throughputs are None where nothing
    succeeded in a measurable time, goodput also where no SLO was given, and statistics where no request has the
    figure; ``warnings`` says why. The figures that begin with ``due_`` and ``send_delay_ms`` are of open loops only.
    """

    requests: int
    succeeded: int
    failed: int
    cancelled: int
    errors: dict[str, int]
    duration_s: float | None
    total_input_tokens: int
    total_output_tokens: int
    ttft_ms: Statistics | None
    itl_ms: Statistics | None
    inter_chunk_latency_ms: Statistics | None
    request_latency_ms: Statistics | None
    due_ttft_ms: Statistics | None
    due_request_latency_ms: Statistics | None
    send_delay_ms: Statistics | None
    input_tokens: Statistics | None
    output_tokens: Statistics | None
    request_throughput: float | None
    output_token_throughput: float | None
    input_token_throughput: float | None
    goodput: float | None
    error_rate: float | None
    warnings: tuple[str, ...]


_DISTRIBUTIONS: Final = (
    "ttft_ms",
    "itl_ms",
    "inter_chunk_latency_ms",
    "request_latency_ms",
    "due_ttft_ms",
    "due_request_latency_ms",
    "send_delay_ms",
    "input_tokens",
    "output_tokens",
)
_COUNTS: Final = (
    "streamed",
    "requests",
    "failed",
    "cancelled",
    "good",
    "without_itl",
    "first_ns",
    "last_ns",
    "total_input_tokens",
    "total_output_tokens",
)


@dataclass(slots=True)
class StageTally:
    """Counts a stage's records as they come; tallies of several processes merge.

    ``slos`` are what ``good`` requests keep. ``streamed`` turns true with the first answer that is made of tokens: a
    task without them has no figures of a stream. ``examples`` holds the first message of each kind of error.
    ``first_ns`` is the first start of a request that was answered, ``last_ns`` the last response; None and 0 before.
    """

    slos: tuple[Slo, ...] = ()
    streamed: bool = False
    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    good: int = 0
    without_itl: int = 0
    first_ns: int | None = None
    last_ns: int = 0
    total_input_tokens: int = 0
    total_output_tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    distributions: dict[str, Distribution] = field(
        default_factory=lambda: {name: Distribution() for name in _DISTRIBUTIONS}
    )
    seconds: SeriesTally = field(default_factory=SeriesTally)

    @property
    def succeeded(self) -> int:
        """Requests whose whole answer came."""
        return self.requests - self.failed - self.cancelled

    def add(self, record: RequestRecord) -> None:
        """Take one record."""
        self.requests += 1
        self.seconds.add(record)
        if record.cancelled:
            self.cancelled += 1
        elif record.error_kind is not None:
            self.failed += 1
            self.errors[record.error_kind] += 1
            self.examples.setdefault(record.error_kind, record.error_message or "")
        else:
            self._add_success(record)

    def _add_success(self, record: RequestRecord) -> None:
        values = self.distributions
        self.total_input_tokens += record.num_input_tokens
        self.total_output_tokens += record.num_output_tokens
        self.good += bool(self.slos) and meets(record, self.slos)
        values["input_tokens"].add(record.num_input_tokens)
        latency = request_latency_ms(record)
        delay = None if record.intended_ns is None else send_delay_ms(record)
        if delay is not None:
            values["send_delay_ms"].add(delay)
        if latency is not None:
            values["request_latency_ms"].add(latency)
            if delay is not None:
                values["due_request_latency_ms"].add(latency + delay)
            self.last_ns = max(self.last_ns, record.content_ns[-1])
            if self.first_ns is None or record.start_ns < self.first_ns:
                self.first_ns = record.start_ns
        if record.num_output_tokens or record.finish_reason is not None:
            self._add_stream(record, delay)

    def _add_stream(self, record: RequestRecord, delay: float | None) -> None:
        self.streamed = True
        values = self.distributions
        values["output_tokens"].add(record.num_output_tokens)
        values["inter_chunk_latency_ms"].extend(inter_chunk_latencies_ms(record))
        ttft, itl = ttft_ms(record), itl_ms(record)
        if ttft is not None:
            values["ttft_ms"].add(ttft)
            if delay is not None:
                values["due_ttft_ms"].add(ttft + delay)
        if itl is not None:
            values["itl_ms"].add(itl)
        else:
            self.without_itl += 1

    def merge(self, other: "StageTally") -> None:
        """Take another tally's counts."""
        self.streamed = self.streamed or other.streamed
        for name in ("requests", "failed", "cancelled", "good", "without_itl"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.total_input_tokens += other.total_input_tokens
        self.total_output_tokens += other.total_output_tokens
        self.last_ns = max(self.last_ns, other.last_ns)
        starts = [start for start in (self.first_ns, other.first_ns) if start is not None]
        self.first_ns = min(starts, default=None)
        self.errors.update(other.errors)
        self.examples = {**other.examples, **self.examples}
        for name, distribution in other.distributions.items():
            self.distributions[name].merge(distribution)
        self.seconds.merge(other.seconds)

    def series(self, opened_ns: int) -> Series:
        """Give the time series since the stage opened."""
        return self.seconds.series(opened_ns)

    def figures(self) -> StageFigures:
        """Compute every figure."""
        duration_s = None if self.first_ns is None else (self.last_ns - self.first_ns) / _NS_PER_S
        warnings = self._warnings(duration_s)

        def rate(amount: int) -> float | None:
            return amount / duration_s if duration_s else None

        values = {name: distribution.statistics() for name, distribution in self.distributions.items()}
        return StageFigures(
            requests=self.requests,
            succeeded=self.succeeded,
            failed=self.failed,
            cancelled=self.cancelled,
            errors=dict(self.errors.most_common()),
            duration_s=duration_s or None,
            total_input_tokens=self.total_input_tokens,
            total_output_tokens=self.total_output_tokens,
            request_throughput=rate(self.succeeded),
            output_token_throughput=rate(self.total_output_tokens) if self.streamed else None,
            input_token_throughput=rate(self.total_input_tokens),
            goodput=rate(self.good) if self.slos else None,
            error_rate=self.failed / self.requests if self.requests else None,
            warnings=tuple(warnings),
            **values,
        )

    def _warnings(self, duration_s: float | None) -> list[str]:
        found = []
        if not self.requests:
            found.append("no request ended, so there is nothing to measure")
        elif not self.succeeded:
            ended = "failed" if not self.cancelled else "failed or were cancelled"
            found.append(f"all {self.requests} requests {ended}, so there is no latency and no throughput")
        elif not duration_s:
            found.append("no time passed between the first request and the last response, so there is no throughput")
        if self.without_itl:
            found.append(
                f"{self.without_itl} of {self.succeeded} answers have fewer than two output tokens and so no ITL"
            )
        return found

    def to_state(self) -> dict[str, Any]:
        """Everything but the SLOs in plain values and bytes, for another process."""
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "errors": dict(self.errors),
            "examples": self.examples,
            "distributions": {name: distribution.to_state() for name, distribution in self.distributions.items()},
            "seconds": self.seconds.to_state(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], slos: tuple[Slo, ...]) -> Self:
        """Undo ``to_state``."""
        return cls(
            slos=slos,
            **{name: state[name] for name in _COUNTS},
            errors=Counter(state["errors"]),
            examples=state["examples"],
            distributions={name: Distribution.from_state(each) for name, each in state["distributions"].items()},
            seconds=SeriesTally.from_state(state["seconds"]),
        )


def stage_figures(records: Iterable[RequestRecord], slos: Sequence[Slo] = ()) -> StageFigures:
    """Compute every figure of one stage from its records."""
    tally = StageTally(tuple(slos))
    for record in records:
        tally.add(record)
    return tally.figures()
