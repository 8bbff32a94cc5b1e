"""Runs for the tests of reports: random requests through the real recorder, and what a server said meanwhile."""

import random
from pathlib import Path
from typing import Any

from fathom_loadtest.environment import RunEnvironment
from fathom_loadtest.generator import GeneratorLoad
from fathom_loadtest.metrics import statistics
from fathom_loadtest.outcome import Run, StageRun
from fathom_loadtest.record import RequestRecord
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.report.document import Report, build_report
from fathom_loadtest.scenario import ClosedLoop, Fixed, OpenLoop, Scenario, Slo, Target, Task, TaskSpec
from fathom_loadtest.server_side.document import (
    EngineFigures,
    Gauge,
    GpuFigures,
    ModelFigures,
    ProcessFigures,
    Reconciled,
    ServerSeries,
    ServerSide,
    TimeFigures,
)

SECOND = 1_000_000_000
HOSTILE = "<script>alert(1)</script> & 'quoted' \"</title>{{ 7 * 7 }}"
"""What a hostile server or model name might try to be."""


def make_report(
    *users: int,
    task: Task = "generate",
    requests: int = 40,
    fail_every: int = 10,
    model: str = "chat",
    rates: tuple[float, ...] = (),
    served: bool = False,
    slower: float = 1.0,
    seed: int = 5,
    input_tokens: int = 50,
    records: Path | None = None,
    environment: RunEnvironment | None = None,
    **ending: Any,
) -> Report:
    """A run of random requests, every ``fail_every``-th of which failed with a hostile message.

    ``rates`` make the stages open loops of as many requests/s; ``served`` adds a server's side; ``slower`` stretches
    every latency; ``records`` is where requests.jsonl goes.
    """
    slos = Slo.parse("ttft_ms=200,itl_ms=20") if task != "embed" else Slo.parse("request_latency_ms=200")
    rng, recorder, stages, now = random.Random(seed), Recorder(records, slos), [], 7 * SECOND
    for stage, number in enumerate(users):
        opened_ns = now
        for index in range(requests):
            start_ns = opened_ns + index // number * SECOND // 4
            intended_ns = start_ns - rng.randrange(SECOND // 200) if rates else None
            wait = rng.randrange(SECOND // 10, SECOND // 4)
            at, times, tokens = start_ns + round(slower * wait), [], []
            for _ in range(rng.randrange(1, 12) if task != "embed" else 1):
                times.append(at)
                tokens.append(rng.randrange(1, 3) if task != "embed" else 0)
                at += round(slower * rng.randrange(SECOND // 200, SECOND // 50))
            kind = "ServerError" if fail_every and index % fail_every == 0 else None
            recorder.add(
                RequestRecord(
                    stage=stage,
                    index=index,
                    start_ns=start_ns,
                    end_ns=times[-1],
                    response_ns=tuple(times),
                    response_tokens=tuple(tokens),
                    num_input_tokens=30 + index % 40,
                    num_output_tokens=sum(tokens),
                    finish_reason="stop",
                    error_kind=kind,
                    error_message=HOSTILE if kind else None,
                    intended_ns=intended_ns,
                    task=task,
                    model=model,
                )
            )
            now = max(now, times[-1])
        generator = GeneratorLoad(0.25, 0.4, statistics([0.1, 0.2, 0.9]))
        rate = rates[stage] if rates else None
        server = make_server_side((now - opened_ns) / SECOND, number, model) if served else None
        stages.append(StageRun(stage, number, opened_ns, now, 0, generator, rate=rate, server=server))
        now += SECOND
    load = ClosedLoop(users=users, requests=requests) if not rates else OpenLoop(rates=rates, requests=requests)
    spec = TaskSpec(model=model, task=task, input_tokens=Fixed(input_tokens))
    scenario = Scenario(target=Target(), load=load, tasks=(spec,), slos=slos)
    run = Run(scenario, stages, recorder, **ending)
    if records is not None:
        recorder.save(records)
    return build_report(
        run,
        started_at="2026-11-02T09:05:00+00:00",
        command=f"fathom-load run --model {model}",
        target={"server": "triton 2.51.0", "model platform": "", "model versions": "1"},
        environment=environment or RunEnvironment.here(),
    )


def make_server_side(seconds: float, users: int, model: str) -> ServerSide:
    """What a server with an engine, an encoder and a GPU might say of a stage."""
    times = TimeFigures(count=40, avg_ms=12.5, p50_ms=10.0, p95_ms=40.0)
    gauge = Gauge(avg=0.5 * users, min=0.0, max=float(users))
    at_s = tuple(0.5 * place for place in range(max(2, int(2 * seconds))))
    wave = tuple(abs((place % 20) - 10) / 10 for place in range(len(at_s)))
    engine = EngineFigures(
        prompt_tokens=2000, generation_tokens=400, prompt_tokens_per_s=200.0, generation_tokens_per_s=40.0,
        preemptions=2, prefix_hit_share=0.25, draft_acceptance=None, ends={"stop": 30, "length": 10}, ttft=times,
        itl=times, e2e=times, queue=times, prefill=times, decode=times, steps={"mixed": times}, running=gauge,
        waiting=gauge, kv_cache_usage=Gauge(0.4, 0.1, 0.9),
    )  # fmt: skip
    counters = ModelFigures(
        requests=40, failures=0, executions=20, batch_size=2.0, request_ms=12.0, queue_ms=1.0, compute_input_ms=0.1,
        compute_infer_ms=10.0, compute_output_ms=0.2, pending=Gauge(0.2, 0.0, 2.0),
    )  # fmt: skip
    series = ServerSeries(
        at_s=at_s,
        running=tuple(users * value for value in wave),
        waiting=tuple(2 * value for value in wave),
        kv_cache_usage=wave,
        prompt_tokens_per_s=(None, *(200 * value for value in wave[1:])),
        generation_tokens_per_s=(None, *(40 * value for value in wave[1:])),
        pending=tuple(None for _ in at_s),
        batch_size=(None, *(1 + value for value in wave[1:])),
        queue_ms=(None, *wave[1:]),
        rss_bytes=tuple(5e8 + 1e8 * value for value in wave),
        cpu_share=tuple(1.5 * value for value in wave),
        gpu_utilization=wave,
        gpu_memory_bytes=tuple(6e9 for _ in at_s),
    )
    return ServerSide(
        url="http://localhost:8002/metrics",
        scrapes=len(at_s),
        interval_s=0.5,
        notes=(f"a note from {model}",),
        models={model: counters},
        engines={model: engine},
        processes=ProcessFigures(processes=3, rss_bytes=Gauge(6e8, 5e8, 7e8), cpu_share=1.5),
        gpus={"GPU-1": GpuFigures(gauge, gauge, 8e10, None)},
        series=series,
        reconciled=(Reconciled("ttft_ms", model, 20.0, 12.5, 7.5, 0.375, 40, 41),),
    )


def save_run(folder: Path, *users: int, **settings: Any) -> Path:
    """Save such a run's report.json and requests.jsonl in a folder; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    make_report(*users, records=folder / "requests.jsonl", **settings).save_json(folder / "report.json")
    return folder
