"""The server's side of a stage as rows of a table."""

from fathom_loadtest.report.numbers import percent, short
from fathom_loadtest.server_side.document import EngineFigures, Gauge, ModelFigures, ServerSide, TimeFigures

Rows = list[tuple[str, str]]


def server_rows(server: ServerSide) -> list[tuple[str, Rows]]:
    """Give tables of (name, value): each engine, each model, the processes, each GPU."""
    tables = [(f"Engine of {name}", _engine(engine)) for name, engine in server.engines.items()]
    tables += [(f"Triton's counters of {name}", _model(model)) for name, model in server.models.items()]
    if server.processes is not None:
        processes = server.processes
        memory = _gauge(processes.rss_bytes, 2**-20, "MiB")
        rows = [("processes", str(processes.processes)), ("resident memory", memory)]
        tables.append(("Processes", [*rows, ("CPU, 100 % is one core", percent(processes.cpu_share))]))
    for name, gpu in server.gpus.items():
        total = gpu.memory_total_bytes
        rows = [
            ("in use", _gauge(gpu.utilization, 100, "%")),
            ("memory in use", _gauge(gpu.memory_used_bytes, 2**-20, "MiB")),
            ("memory in all", "–" if total is None else f"{short(total * 2**-20)} MiB"),
            ("power", _gauge(gpu.power_watts, 1, "W")),
        ]
        tables.append((f"GPU {name}", rows))
    return tables


def _engine(engine: EngineFigures) -> Rows:
    times = [
        ("time to first token", engine.ttft),
        ("inter-token latency", engine.itl),
        ("whole request", engine.e2e),
        ("in the queue", engine.queue),
        ("prefill", engine.prefill),
        ("decode", engine.decode),
    ]
    steps = [(f"step, {kind}", found) for kind, found in engine.steps.items()]
    return [
        ("running", _gauge(engine.running, 1, "requests")),
        ("waiting", _gauge(engine.waiting, 1, "requests")),
        ("KV cache in use", _gauge(engine.kv_cache_usage, 100, "%")),
        ("tokens of prompts", f"{engine.prompt_tokens:,} ({short(engine.prompt_tokens_per_s)} tokens/s)"),
        ("tokens generated", f"{engine.generation_tokens:,} ({short(engine.generation_tokens_per_s)} tokens/s)"),
        ("prompt tokens found in the cache", percent(engine.prefix_hit_share)),
        ("tokens tried ahead and kept", percent(engine.draft_acceptance)),
        ("preemptions", str(engine.preemptions)),
        ("answers by their end", ", ".join(f"{end} {number}" for end, number in engine.ends.items()) or "none"),
        *((label, _times(found)) for label, found in (*times, *steps) if found is not None),
    ]


def _model(model: ModelFigures) -> Rows:
    parts = [
        ("whole request", model.request_ms),
        ("in the queue", model.queue_ms),
        ("compute: input", model.compute_input_ms),
        ("compute: inference", model.compute_infer_ms),
        ("compute: output", model.compute_output_ms),
    ]
    rows = [
        ("requests, failures", f"{model.requests:,}, {model.failures:,}"),
        ("executions", f"{model.executions:,}"),
        ("batch size", short(model.batch_size)),
        *((label, f"{short(value)} ms") for label, value in parts if value is not None),
    ]
    return rows if model.pending is None else [*rows, ("pending", _gauge(model.pending, 1, "requests"))]


def _gauge(gauge: Gauge | None, scale: float, unit: str) -> str:
    if gauge is None:
        return "–"
    average, least, most = (short(scale * value) for value in (gauge.avg, gauge.min, gauge.max))
    return f"{average} {unit} ({least} to {most})"


def _times(times: TimeFigures) -> str:
    return f"{short(times.avg_ms)} ms (p50 {short(times.p50_ms)}, p95 {short(times.p95_ms)})"
