"""Where the milliseconds of a step go: products, attention, the rest of the graph, Python.

    python -m benchmarks.step                        # int8, the shape of SmolLM2-360M, random weights
    python -m benchmarks.step --precision int4       # blocks of 128
    python -m benchmarks.step --model FOLDER         # a version's folder of a repository

Every workload's step is computed again and again as the served runner does. The whole step is timed without ONNX
Runtime's profiler, its parts with it; figures are those of the fastest step, for whatever else the machine does only
adds. ``python`` is what the runner does besides the graph's own run.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import onnxruntime
from benchmarks.peers.checkpoint import ModelShape, write_checkpoint
from benchmarks.peers.machine import ROOT, commit, describe

from fathom_export.decoder import build_decoder
from fathom_export.spec.quantisation import Quantisation
from fathom_server.engine.runner.base import StepRow
from fathom_server.engine.runner.native import NativeRunner
from fathom_server.engine.settings import EngineLimits, EngineSettings

WORK: Final = ROOT / ".bench"
PARTS: Final = ("Linear", "Attention", "rest", "python")


@dataclass(frozen=True, slots=True)
class Workload:
    """``rows`` sequences of ``past`` cached tokens get ``new`` ones each."""

    name: str
    rows: int
    past: int
    new: int
    steps: int


WORKLOADS: Final = (
    Workload("decode, 1 x 200", 1, 200, 1, 200),
    Workload("decode, 16 x 200", 16, 200, 1, 200),
    Workload("prefill, 512", 1, 0, 512, 6),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Build what is missing, measure, print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder with model.native.onnx and engine.json")
    parser.add_argument("--precision", choices=("int8", "int4"), default="int8", help="of the random model")
    parser.add_argument("--only", help="the workload of this name")
    arguments = parser.parse_args(argv)
    folder = arguments.model or _random_model(arguments.precision)
    settings = EngineSettings.load(folder)
    limits = replace(settings.limits, max_batch=16, max_context=min(576, settings.graph.max_context), kv_cache_tokens=0)
    settings = replace(settings, limits=limits)
    machine = describe()
    print(f"{folder.name}: {settings.graph.precision}, cache {limits.kv_cache_dtype}; commit {commit()}")
    print(f"{machine['processor']}, {machine['cores']} cores; onnxruntime {onnxruntime.__version__}; ms a step\n")
    print(f"| {'workload':18s} | {'step':>8s} | {' | '.join(f'{part:>9s}' for part in PARTS)} |")
    print(f"|{'-' * 20}|{'-' * 9}:|{'|'.join('-' * 10 + ':' for _ in PARTS)}|")
    for workload in WORKLOADS:
        if arguments.only in (None, workload.name):
            figures = measure(folder, settings, workload)
            parts = " | ".join(f"{figures[part]:9.2f}" for part in PARTS)
            print(f"| {workload.name:18s} | {figures['step']:8.2f} | {parts} |", flush=True)
    return 0


def measure(folder: Path, settings: EngineSettings, workload: Workload) -> dict[str, float]:
    """Milliseconds of the fastest step and of its parts."""
    runner = NativeRunner(folder, settings)
    rows = _prepare(runner, workload)
    whole = _times_ms(runner, rows, workload.steps)
    del runner
    with tempfile.TemporaryDirectory(prefix="fathom-step-") as work:
        runner = _profiled_runner(folder, settings, Path(work))
        rows = _prepare(runner, workload)
        profiled = _times_ms(runner, rows, workload.steps)
        events = json.loads(Path(runner._session.end_profiling()).read_text(encoding="utf-8"))
    runs = _runs(events)[-workload.steps :]
    fastest = min(range(len(runs)), key=lambda place: runs[place]["whole"])
    python = statistics.median(step - run["whole"] for step, run in zip(profiled[-len(runs) :], runs, strict=True))
    return {"step": min(whole), **runs[fastest], "python": python}


def _random_model(precision: str) -> Path:
    folder = WORK / "models" / f"step-{precision}"
    if not (folder / "engine.json").is_file():
        write_checkpoint(WORK / "checkpoint", ModelShape())
        folder.mkdir(parents=True, exist_ok=True)
        quantisation = Quantisation(block_size=128) if precision == "int4" else None
        graph = build_decoder(
            WORK / "checkpoint",
            folder,
            dialect="cpu",
            precision=precision,  # type: ignore[arg-type]  # one of argparse's choices
            quantisation=quantisation,
        )
        EngineSettings(graph, EngineLimits(), (0,)).save(folder)
    return folder


def _profiled_runner(folder: Path, settings: EngineSettings, work: Path) -> NativeRunner:
    """A runner whose session writes ONNX Runtime's profile into a folder."""
    plain = onnxruntime.SessionOptions

    class ProfilingOptions(plain):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.enable_profiling = True
            self.profile_file_prefix = str(work / "profile")

    onnxruntime.SessionOptions = ProfilingOptions
    try:
        return NativeRunner(folder, settings)
    finally:
        onnxruntime.SessionOptions = plain


def _prepare(runner: NativeRunner, workload: Workload) -> list[StepRow]:
    """The workload's rows, their pasts computed and the kernels warm."""
    size = runner.geometry.block_tokens
    each = -(-(workload.past + workload.new) // size)
    rows = []
    for place in range(workload.rows):
        blocks = range(place, each * workload.rows, workload.rows)  # scattered, as after some serving
        if workload.past:
            runner.step([StepRow(blocks, 0, [place + 1] * workload.past, 0)])
        rows.append(StepRow(blocks, workload.past, [place + 2] * workload.new, 1))
    runner.step(rows)
    return rows


def _times_ms(runner: NativeRunner, rows: list[StepRow], steps: int) -> list[float]:
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        runner.step(rows)
        times.append((time.perf_counter() - began) * 1e3)
    return times


def _runs(events: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Each run of the profile: milliseconds of its parts and of the whole."""
    runs = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event.get("name") == "model_run")
    nodes = sorted(
        (event["ts"], event["dur"], event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )
    found: list[dict[str, float]] = []
    place = 0
    for begin, end in runs:
        sums: defaultdict[str, float] = defaultdict(float)
        while place < len(nodes) and nodes[place][0] < begin:
            place += 1
        while place < len(nodes) and nodes[place][0] < end:
            sums[nodes[place][2]] += nodes[place][1] / 1e3
            place += 1
        whole = (end - begin) / 1e3
        own = {part: sums[part] for part in ("Linear", "Attention")}
        found.append({**own, "rest": whole - sum(own.values()), "whole": whole})
    return found


if __name__ == "__main__":
    raise SystemExit(main())
