"""What a stage's requests amount to, slice of time by slice of time: what the bootstrap draws from."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fathom_loadtest.compare.bootstrap import FEWEST_SLICES, Draws, place_of, slice_count
from fathom_loadtest.compare.measure import DISTRIBUTIONS, Measure
from fathom_loadtest.metrics import inter_chunk_latencies_ms, itl_ms, meets, request_latency_ms, send_delay_ms, ttft_ms
from fathom_loadtest.record import RequestRecord
from fathom_loadtest.scenario import Slo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _floats() -> "array[float]":
    return array("d")


@dataclass(frozen=True, slots=True)
class Values:
    """Values and the moments (nanoseconds) that they belong to; eight bytes each."""

    at_ns: "array[float]" = field(default_factory=_floats)
    values: "array[float]" = field(default_factory=_floats)

    def add(self, at_ns: int, value: float | None) -> None:
        """Keep one value, unless there is none."""
        if value is not None:
            self.at_ns.append(at_ns)
            self.values.append(value)


@dataclass(frozen=True, slots=True)
class StageSample:
    """Requests of one stage as figures need them.

    Latencies and failures belong to the moment at which their request was due; responses, tokens and good requests to
    the moment at which they came. ``answers_ns`` is when the requests that were answered had started.
    """

    figures: dict[str, Values] = field(default_factory=lambda: {name: Values() for name in DISTRIBUTIONS})
    answers_ns: "array[float]" = field(default_factory=_floats)
    started: Values = field(default_factory=Values)
    failed: Values = field(default_factory=Values)
    answered: Values = field(default_factory=Values)
    good: Values = field(default_factory=Values)
    output_tokens: Values = field(default_factory=Values)

    def add(self, record: RequestRecord, slos: Sequence[Slo]) -> None:
        """Take one record; requests that the scenario cancelled have no figures."""
        due_ns = record.due_ns
        self.started.add(due_ns, 1)
        if not record.succeeded:
            self.failed.add(due_ns, 1)
        if not record.succeeded or record.cancelled or not record.response_ns:
            return
        last_ns, delay = record.content_ns[-1], send_delay_ms(record)
        self.answers_ns.append(record.start_ns)
        self.answered.add(last_ns, 1)
        ttft, latency = ttft_ms(record), request_latency_ms(record)
        for name, value in (("ttft_ms", ttft), ("request_latency_ms", latency)):
            self.figures[name].add(due_ns, value)
            if record.intended_ns is not None:
                self.figures[f"due_{name}"].add(due_ns, None if value is None else value + delay)
        self.figures["itl_ms"].add(due_ns, itl_ms(record))
        for gap in inter_chunk_latencies_ms(record):
            self.figures["inter_chunk_latency_ms"].add(due_ns, gap)
        if slos and meets(record, slos):
            self.good.add(last_ns, 1)
        for at_ns, number in zip(record.response_ns, record.response_tokens, strict=True):
            self.output_tokens.add(at_ns, number)

    @property
    def span_ns(self) -> tuple[float, float]:
        """First start and last response of the requests that succeeded; first and last start where none did."""
        if self.answered.at_ns:
            return min(self.answers_ns), max(self.answered.at_ns)
        return min(self.started.at_ns), max(self.started.at_ns)

    def places(self, values: Values) -> "NDArray[np.float64]":
        """When the values were, as shares of the stage's time."""
        import numpy as np

        first, last = self.span_ns
        return (np.asarray(values.at_ns) - first) / max(last - first, 1)

    def slices(self) -> int:
        """How many slices of time suit this stage."""
        import numpy as np

        latencies = self.figures["request_latency_ms"]
        if not latencies.values:
            return FEWEST_SLICES
        numbers, (first, last) = np.asarray(latencies.values), self.span_ns
        usual = float(np.median(numbers)) * 1e6 / max(last - first, 1)
        return slice_count(self.places(latencies), numbers, usual)


class StageDraws:
    """The bootstrap of one stage: its sample, cut into slices and drawn many times."""

    def __init__(self, sample: StageSample, seed: int) -> None:
        self._sample = sample
        self._draws = Draws.make(sample.slices(), seed)

    @property
    def slices(self) -> int:
        """How many slices of time were drawn from."""
        return self._draws.slices

    def of(self, measures: Sequence[Measure]) -> "dict[Measure, NDArray[np.float64]]":
        """Each measure in each draw, [draws]; only those for which there are at least two values."""
        found: dict[Measure, NDArray[np.float64]] = {}
        for figure, values in self._sample.figures.items():
            wanted = [measure for measure in measures if measure.figure == figure]
            if wanted and len(values.values) > 1:
                found |= self._distribution(values, wanted)
        for measure in measures:
            if measure.statistic is None:
                found[measure] = self._total(measure.figure)
        return found

    def _distribution(self, values: Values, measures: Sequence[Measure]) -> "dict[Measure, NDArray[np.float64]]":
        import numpy as np

        numbers, where = np.asarray(values.values), self._where(values)
        ranked = [measure for measure in measures if measure.statistic != "avg"]
        ranks = tuple(float((measure.statistic or "").removeprefix("p")) / 100 for measure in ranked)
        quantiles = self._draws.quantiles(numbers, where, ranks)
        found = {measure: quantiles[:, column] for column, measure in enumerate(ranked)}
        averages = self._draws.means(numbers, where)
        return found | {measure: averages for measure in measures if measure.statistic == "avg"}

    def _total(self, figure: str) -> "NDArray[np.float64]":
        import numpy as np

        sample = self._sample
        first, last = sample.span_ns
        seconds = np.full(self.slices, (last - first) / 1e9 / self.slices)
        match figure:
            case "error_rate":
                return self._draws.ratios(self._sums(sample.failed), self._sums(sample.started))
            case "request_throughput":
                return self._draws.ratios(self._sums(sample.answered), seconds)
            case "output_token_throughput":
                return self._draws.ratios(self._sums(sample.output_tokens), seconds)
            case "goodput":
                return self._draws.ratios(self._sums(sample.good), seconds)
        raise ValueError(f"{figure!r} has no draws")

    def _where(self, values: Values) -> "NDArray[np.int64]":
        return place_of(self._sample.places(values), self.slices)

    def _sums(self, values: Values) -> "NDArray[np.float64]":
        import numpy as np

        sums = np.bincount(self._where(values), weights=np.asarray(values.values), minlength=self.slices)
        return sums.astype(np.float64)
