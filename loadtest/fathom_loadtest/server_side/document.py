"""What the server says of a stage, as a report holds it."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Gauge:
    """A value that goes up and down, over the scrapes of a stage."""

    avg: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class TimeFigures:
    """Times that the engine counted in a stage, in milliseconds.

    The average is exact. The percentiles come from the buckets of a Prometheus histogram, linearly inside a bucket (as
    ``histogram_quantile`` does), so they are as coarse as the buckets; one beyond the last bound is that bound.
    """

    count: int
    avg_ms: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """What Triton counted of one model in a stage (``nv_inference_*``).

    The times are averages a request in milliseconds; ``batch_size`` is inferences an execution. None where there was no
    request, or no execution (an ensemble executes nothing itself). ``pending`` requests wait for an instance.
    """

    requests: int
    failures: int
    executions: int
    batch_size: float | None
    request_ms: float | None
    queue_ms: float | None
    compute_input_ms: float | None
    compute_infer_ms: float | None
    compute_output_ms: float | None
    pending: Gauge | None


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """What an LLM's engine counted in a stage (``fathom_*``).

    Tokens a second are over the time between the first and the last scrape. ``prefix_hit_share`` is of the prompt
    tokens looked for in the cache, ``draft_acceptance`` of the tokens tried ahead; None where there were none. ``ends``
    counts answers by how they ended. ``steps`` are times of the model's steps by kind; ``kv_cache_usage`` is a share.
    """

    prompt_tokens: int
    generation_tokens: int
    prompt_tokens_per_s: float
    generation_tokens_per_s: float
    preemptions: int
    prefix_hit_share: float | None
    draft_acceptance: float | None
    ends: dict[str, int]
    ttft: TimeFigures | None
    itl: TimeFigures | None
    e2e: TimeFigures | None
    queue: TimeFigures | None
    prefill: TimeFigures | None
    decode: TimeFigures | None
    steps: dict[str, TimeFigures]
    running: Gauge
    waiting: Gauge
    kv_cache_usage: Gauge


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """The server's processes where they are on the generator's host.

    ``rss_bytes`` is the sum of their resident memory; pages that they share count in each. ``cpu_share`` is CPU time by
    wall time, 1.0 = one core.
    """

    processes: int
    rss_bytes: Gauge
    cpu_share: float


@dataclass(frozen=True, slots=True)
class GpuFigures:
    """One GPU as Triton sees it (``nv_gpu_*``); ``utilization`` is a share of 1. None where the driver does not say."""

    utilization: Gauge | None
    memory_used_bytes: Gauge | None
    memory_total_bytes: float | None
    power_watts: Gauge | None


@dataclass(frozen=True, slots=True)
class ServerSeries:
    """The server over time: a value for each scrape, at ``at_s`` seconds after the stage opened.

    Requests and the KV cache are of all engines together (the fullest cache), ``pending`` of all models. What is a rate
    or an average is of the time since the scrape before. ``batch_size`` and ``queue_ms`` are of the models that are no
    LLM. None where the server does not say.
    """

    at_s: tuple[float, ...] = ()
    running: tuple[float | None, ...] = ()
    waiting: tuple[float | None, ...] = ()
    kv_cache_usage: tuple[float | None, ...] = ()
    prompt_tokens_per_s: tuple[float | None, ...] = ()
    generation_tokens_per_s: tuple[float | None, ...] = ()
    pending: tuple[float | None, ...] = ()
    batch_size: tuple[float | None, ...] = ()
    queue_ms: tuple[float | None, ...] = ()
    rss_bytes: tuple[float | None, ...] = ()
    cpu_share: tuple[float | None, ...] = ()
    gpu_utilization: tuple[float | None, ...] = ()
    gpu_memory_bytes: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One latency as the client and the server see it: averages in milliseconds over the same requests.

    ``outside_ms`` is the difference: network, Triton's front end, and the client. ``outside_share`` is its part of what
    the client saw. ``client_count`` and ``server_count`` differ where others asked the server too, or answers failed.
    """

    figure: str
    model: str
    client_ms: float
    server_ms: float
    outside_ms: float
    outside_share: float
    client_count: int
    server_count: int


@dataclass(frozen=True, slots=True)
class ServerSide:
    """A stage as the server saw it.

    ``notes`` say what is missing and why; ``scrapes`` is 0 where nothing could be read. ``models`` and
    ``engines`` are by model, those that had requests; ``gpus`` by UUID.
    """

    url: str
    scrapes: int
    interval_s: float
    notes: tuple[str, ...]
    models: dict[str, ModelFigures]
    engines: dict[str, EngineFigures]
    processes: ProcessFigures | None
    gpus: dict[str, GpuFigures]
    series: ServerSeries
    reconciled: tuple[Reconciled, ...] = ()

    @classmethod
    def missing(cls, url: str, interval_s: float, *notes: str) -> Self:
        """Say that nothing could be read, and why."""
        return cls(url, 0, interval_s, notes, {}, {}, None, {}, ServerSeries())

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Undo ``dataclasses.asdict``, also after a way through JSON."""

        def gauge(value: dict[str, float] | None) -> Gauge | None:
            return None if value is None else Gauge(**value)

        def times(value: dict[str, Any] | None) -> TimeFigures | None:
            return None if value is None else TimeFigures(**value)

        def engine(value: dict[str, Any]) -> EngineFigures:
            named = {name: times(value[name]) for name in ("ttft", "itl", "e2e", "queue", "prefill", "decode")}
            gauges = {name: Gauge(**value[name]) for name in ("running", "waiting", "kv_cache_usage")}
            steps = {kind: TimeFigures(**each) for kind, each in value["steps"].items()}
            return EngineFigures(**{**value, **named, **gauges, "steps": steps})

        def gpu(value: dict[str, Any]) -> GpuFigures:
            named = {name: gauge(value[name]) for name in ("utilization", "memory_used_bytes", "power_watts")}
            return GpuFigures(**{**value, **named})

        processes = fields["processes"]
        return cls(
            url=fields["url"],
            scrapes=fields["scrapes"],
            interval_s=fields["interval_s"],
            notes=tuple(fields["notes"]),
            models={
                name: ModelFigures(**{**each, "pending": gauge(each["pending"])})
                for name, each in fields["models"].items()
            },
            engines={name: engine(each) for name, each in fields["engines"].items()},
            processes=processes and ProcessFigures(**{**processes, "rss_bytes": Gauge(**processes["rss_bytes"])}),
            gpus={name: gpu(each) for name, each in fields["gpus"].items()},
            series=ServerSeries(**{name: tuple(values) for name, values in fields["series"].items()}),
            reconciled=tuple(Reconciled(**each) for each in fields["reconciled"]),
        )
