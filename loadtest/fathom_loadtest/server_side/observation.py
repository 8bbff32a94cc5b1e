"""A stage from its scrapes: what the counters grew by, where the gauges stood."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Final

from fathom_client import metric_names as engine
from fathom_loadtest.server_side import names as triton
from fathom_loadtest.server_side.document import (
    EngineFigures,
    Gauge,
    GpuFigures,
    ModelFigures,
    ProcessFigures,
    ServerSeries,
    ServerSide,
    TimeFigures,
)
from fathom_loadtest.server_side.processes import ProcessSample
from fathom_loadtest.server_side.scrape import Labels, Scrape

MOST_KEPT: Final = 3600
"""The series of a stage of more looks are of every second one, then of every fourth, and so on."""

Row = dict[str, float | None]
_GAUGES: Final = (
    engine.REQUESTS_RUNNING,
    engine.REQUESTS_WAITING,
    engine.KV_CACHE_USAGE,
    triton.PENDING,
    triton.GPU_UTILIZATION,
    triton.GPU_MEMORY_USED,
    triton.GPU_POWER,
)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the server."""

    scrape: Scrape
    processes: ProcessSample | None


@dataclass(slots=True)
class _GaugeTally:
    """A gauge over the looks so far."""

    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.least, self.most = min(self.least, value), max(self.most, value)

    def gauge(self) -> Gauge | None:
        return Gauge(self.total / self.count, self.least, self.most) if self.count else None


@dataclass(slots=True)
class Observation:
    """The looks at a server during one stage, in bounded memory: what they add up to, not they themselves.

    ``begin`` takes the look from before the stage's first request, ``add`` those from within, ``end`` the one after its
    last.
    """

    url: str
    interval_s: float
    notes: list[str] = field(default_factory=list)
    first: Look | None = None
    latest: Look | None = None
    taken: int = 0
    _gauges: dict[str, dict[Labels, _GaugeTally]] = field(default_factory=dict)
    _memory: _GaugeTally = field(default_factory=_GaugeTally)
    _most_processes: int = 0
    _rows: list[Row] = field(default_factory=list)
    _every: int = 1

    def begin(self, look: Look) -> None:
        """Take the first look."""
        self.first = look
        self._take(look)

    def add(self, look: Look) -> None:
        """Take one look."""
        for name in _GAUGES:
            tallies = self._gauges.setdefault(name, {})
            for labels, value in look.scrape.of(name).items():
                tallies.setdefault(labels, _GaugeTally()).add(value)
        self._take(look)

    def end(self, look: Look) -> None:
        """Take the last look; where it is the only one but the first, its gauges are all there are."""
        if self.taken < 2:
            self.add(look)
        else:
            self._take(look)

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)

    def _take(self, look: Look) -> None:
        if self.latest is not None and self.taken % self._every == 0:
            self._rows.append(_row(self.latest, look))
            if len(self._rows) > MOST_KEPT:
                del self._rows[1::2]
                self._every *= 2
        self.taken += 1
        self.latest = look
        if look.processes is not None:
            self._memory.add(float(look.processes.rss_bytes))
            self._most_processes = max(self._most_processes, look.processes.processes)

    def conclude(self, opened_ns: int) -> ServerSide:
        """Compute what the server says of the stage, which opened at ``opened_ns``."""
        if self.first is None or self.latest is None or self.taken < 2:
            return ServerSide.missing(self.url, self.interval_s, *self.notes)
        growth = Growth(self.first.scrape, self.latest.scrape)
        engines = {model: self._engine(growth, model) for model in growth.grown(engine.PROMPT_TOKENS)}
        counted = {*growth.grown(triton.SUCCESS), *growth.grown(triton.FAILURE)}
        models = {model: self._model(growth, model) for model in sorted(counted)}
        if growth.started_again:
            self.note(
                "the server's counters began again: it was restarted during the stage, and what they count is less"
            )
        return ServerSide(
            url=self.url,
            scrapes=self.taken,
            interval_s=self.interval_s,
            notes=tuple(self.notes),
            models=models,
            engines=engines,
            processes=self._processes(growth.seconds),
            gpus={
                gpu: self._gpu(growth.last, gpu)
                for gpu in growth.last.label_values(triton.GPU_MEMORY_TOTAL, triton.GPU)
            },
            series=self._series(opened_ns),
        )

    def _model(self, growth: "Growth", model: str) -> ModelFigures:
        def of(name: str) -> float:
            return growth.of(name, model=model)

        requests, executions = of(triton.SUCCESS), of(triton.EXECUTIONS)

        def average_ms(name: str) -> float | None:
            return of(name) / requests / 1e3 if requests else None

        return ModelFigures(
            requests=round(requests),
            failures=round(of(triton.FAILURE)),
            executions=round(executions),
            batch_size=of(triton.INFERENCES) / executions if executions else None,
            request_ms=average_ms(triton.REQUEST_US),
            queue_ms=average_ms(triton.QUEUE_US),
            compute_input_ms=average_ms(triton.COMPUTE_INPUT_US),
            compute_infer_ms=average_ms(triton.COMPUTE_INFER_US),
            compute_output_ms=average_ms(triton.COMPUTE_OUTPUT_US),
            pending=self._gauge(triton.PENDING, model=model),
        )

    def _engine(self, growth: "Growth", model: str) -> EngineFigures:
        def of(name: str) -> float:
            return growth.of(name, model=model)

        def share(part: str, whole: str) -> float | None:
            return of(part) / of(whole) if of(whole) else None

        def times(name: str, **labels: str) -> TimeFigures | None:
            return growth.times(name, model=model, **labels)

        def gauge(name: str) -> Gauge:
            return self._gauge(name, model=model) or Gauge(0.0, 0.0, 0.0)

        steps = {
            kind: times(engine.STEP_TIME, **{engine.STEP_KIND: kind})
            for kind in growth.last.label_values(f"{engine.STEP_TIME}_count", engine.STEP_KIND)
        }
        return EngineFigures(
            prompt_tokens=round(of(engine.PROMPT_TOKENS)),
            generation_tokens=round(of(engine.GENERATION_TOKENS)),
            prompt_tokens_per_s=of(engine.PROMPT_TOKENS) / growth.seconds,
            generation_tokens_per_s=of(engine.GENERATION_TOKENS) / growth.seconds,
            preemptions=round(of(engine.PREEMPTIONS)),
            prefix_hit_share=share(engine.PREFIX_CACHE_HITS, engine.PREFIX_CACHE_QUERIES),
            draft_acceptance=share(engine.ACCEPTED_TOKENS, engine.DRAFT_TOKENS),
            ends=growth.by_label(engine.REQUEST_ENDS, engine.FINISHED_REASON, model=model),
            ttft=times(engine.TIME_TO_FIRST_TOKEN),
            itl=times(engine.INTER_TOKEN_LATENCY),
            e2e=times(engine.END_TO_END_LATENCY),
            queue=times(engine.QUEUE_TIME),
            prefill=times(engine.PREFILL_TIME),
            decode=times(engine.DECODE_TIME),
            steps={kind: each for kind, each in steps.items() if each is not None},
            running=gauge(engine.REQUESTS_RUNNING),
            waiting=gauge(engine.REQUESTS_WAITING),
            kv_cache_usage=gauge(engine.KV_CACHE_USAGE),
        )

    def _gpu(self, last: Scrape, gpu: str) -> GpuFigures:
        totals = last.values(triton.GPU_MEMORY_TOTAL, **{triton.GPU: gpu})
        return GpuFigures(
            utilization=self._gauge(triton.GPU_UTILIZATION, **{triton.GPU: gpu}),
            memory_used_bytes=self._gauge(triton.GPU_MEMORY_USED, **{triton.GPU: gpu}),
            memory_total_bytes=totals[0] if totals else None,
            power_watts=self._gauge(triton.GPU_POWER, **{triton.GPU: gpu}),
        )

    def _gauge(self, name: str, **labels: str) -> Gauge | None:
        """Give the gauge of a name with these labels; None where there is none."""
        wanted = set(labels.items())
        found = (tally.gauge() for own, tally in self._gauges.get(name, {}).items() if wanted <= own)
        return next(found, None)

    def _processes(self, seconds: float) -> ProcessFigures | None:
        memory = self._memory.gauge()
        if memory is None or self.first is None or self.latest is None:
            return None
        before, after = self.first.processes, self.latest.processes
        cpu_s = 0.0 if before is None or after is None else max(0.0, after.cpu_s - before.cpu_s)
        return ProcessFigures(self._most_processes, memory, cpu_s / seconds)

    def _series(self, opened_ns: int) -> ServerSeries:
        columns: dict[str, tuple[float | None, ...]] = {
            column.name: tuple(row[column.name] for row in self._rows)
            for column in fields(ServerSeries)
            if column.name != "at_s"
        }
        return ServerSeries(tuple(((row["at_ns"] or 0.0) - opened_ns) / 1e9 for row in self._rows), **columns)


@dataclass(slots=True)
class Growth:
    """How far counters went from one scrape to a later one.

    A counter that stands lower than before began again (its server was restarted) and went as far as it stands.
    """

    first: Scrape
    last: Scrape
    started_again: bool = False

    @property
    def seconds(self) -> float:
        """Time between the scrapes."""
        return max((self.last.at_ns - self.first.at_ns) / 1e9, 1e-9)

    def of(self, name: str, **labels: str) -> float:
        """How much the counters of a name with these labels grew by, together."""
        wanted, growth, before = set(labels.items()), 0.0, self.first.of(name)
        for found, value in self.last.of(name).items():
            if wanted <= found:
                earlier = before.get(found, 0.0)
                if value < earlier:
                    self.started_again = True
                    earlier = 0.0
                growth += value - earlier
        return growth

    def grown(self, name: str) -> list[str]:
        """Models whose counter of a name grew."""
        return [model for model in self.last.label_values(name, triton.MODEL) if self.of(name, model=model) > 0]

    def by_label(self, name: str, label: str, **labels: str) -> dict[str, int]:
        """Growth of a counter for each value of a label, where it grew."""
        grown = {
            value: round(self.of(name, **labels, **{label: value})) for value in self.last.label_values(name, label)
        }
        return {value: number for value, number in grown.items() if number}

    def times(self, name: str, **labels: str) -> TimeFigures | None:
        """Figures of a histogram in seconds; None where it did not grow."""
        count = round(self.of(f"{name}_count", **labels))
        if not count:
            return None
        bounds = self.last.label_values(f"{name}_bucket", engine.BUCKET_BOUND)
        upto = sorted((float(le), self.of(f"{name}_bucket", **labels, **{engine.BUCKET_BOUND: le})) for le in bounds)
        return TimeFigures(
            count=count,
            avg_ms=self.of(f"{name}_sum", **labels) / count * 1e3,
            p50_ms=_quantile(upto, 0.5) * 1e3,
            p95_ms=_quantile(upto, 0.95) * 1e3,
        )


def _quantile(upto: Sequence[tuple[float, float]], quantile: float) -> float:
    """Interpolate in cumulative buckets as Prometheus's ``histogram_quantile`` does."""
    if not upto:
        return 0.0
    rank = quantile * upto[-1][1]
    lower, below = 0.0, 0.0
    for bound, number in upto:
        if number >= rank:
            if bound == float("inf") or number == below:
                return lower
            return lower + (bound - lower) * (rank - below) / (number - below)
        lower, below = bound, number
    return lower


def _row(earlier: Look, later: Look) -> Row:
    """One point of every series; what the server does not tell is None."""
    growth, now = Growth(earlier.scrape, later.scrape), later.scrape
    llms = set(now.label_values(engine.REQUESTS_RUNNING, triton.MODEL))
    others = [model for model in now.label_values(triton.SUCCESS, triton.MODEL) if model not in llms]

    def over(reduce: Callable[[list[float]], float], name: str) -> float | None:
        found = now.values(name)
        return reduce(found) if found else None

    def together(name: str) -> float:
        return sum(growth.of(name, model=model) for model in others)

    executed = [model for model in others if growth.of(triton.COMPUTE_INFER_US, model=model)]
    executions = sum(growth.of(triton.EXECUTIONS, model=model) for model in executed)
    inferences = sum(growth.of(triton.INFERENCES, model=model) for model in executed)
    requests = together(triton.SUCCESS)
    before, after = earlier.processes, later.processes
    return {
        "at_ns": now.at_ns,
        "running": over(sum, engine.REQUESTS_RUNNING),
        "waiting": over(sum, engine.REQUESTS_WAITING),
        "kv_cache_usage": over(max, engine.KV_CACHE_USAGE),
        "prompt_tokens_per_s": growth.of(engine.PROMPT_TOKENS) / growth.seconds if llms else None,
        "generation_tokens_per_s": growth.of(engine.GENERATION_TOKENS) / growth.seconds if llms else None,
        "pending": over(sum, triton.PENDING),
        "batch_size": inferences / executions if executions else None,
        "queue_ms": together(triton.QUEUE_US) / requests / 1e3 if requests else None,
        "rss_bytes": None if after is None else float(after.rss_bytes),
        "cpu_share": None if before is None or after is None else (after.cpu_s - before.cpu_s) / growth.seconds,
        "gpu_utilization": over(lambda values: sum(values) / len(values), triton.GPU_UTILIZATION),
        "gpu_memory_bytes": over(sum, triton.GPU_MEMORY_USED),
    }
