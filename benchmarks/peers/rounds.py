"""The rounds: everybody alive from start to end, one at a time, each round in another order."""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import machine
from benchmarks.peers.contenders import Contender, Worker
from benchmarks.peers.environments import UnavailableError
from benchmarks.peers.workload import Measure, Run, Workload, judge

SETTLE_S: Final = 0.3
IDLE_S: Final = 2.0
MEMORY_MEASURE: Final = "throughput_16"

Say = Callable[[str], None]


def prepare(
    contenders: Sequence[Contender], cache: Path, checkpoint: Path, say: Say
) -> tuple[list[Worker], dict[str, str]]:
    """Make what each needs; returns workers, not started, and the reasons of those that cannot take part."""
    logs = cache / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    workers, missing = [], {}
    for contender in contenders:
        say(f"== {contender.name}: making what it needs")
        try:
            command = contender.prepare(cache, checkpoint)
        except UnavailableError as error:
            missing[contender.name] = str(error)
            say(f"   left out: {error}")
            continue
        log = logs / f"{contender.name.replace(' ', '-')}.log"
        log.unlink(missing_ok=True)
        workers.append(Worker(contender, command, log))
    return workers, missing


def start(worker: Worker, starts: int, workload: Workload, say: Say) -> list[float]:
    """Start a worker ``starts`` times and leave the last alive and warm; seconds until each was ready."""
    loads = []
    for turn in range(starts):
        if turn:
            worker.stop()
        worker.start()
        loads.append(round(worker.load_s, 2))
    for jobs in workload.warm_up():
        worker.run(jobs)
    say(f"== {worker.contender.name}: ready in {worker.load_s:.1f} s, warm")
    return loads


def idle_cores(workers: Sequence[Worker]) -> dict[str, float]:
    """How many cores each keeps busy while nobody asks anything of anybody."""
    time.sleep(SETTLE_S)
    before = {worker.contender.name: machine.processor_s([worker.pid]) for worker in workers}
    time.sleep(IDLE_S)
    after = {worker.contender.name: machine.processor_s([worker.pid]) for worker in workers}
    return {name: round((after[name] - before[name]) / IDLE_S, 3) for name in before}


def run_measure(
    workers: Sequence[Worker], measure: Measure, round_: int, workload: Workload, say: Say
) -> tuple[list[Run], dict[str, machine.Memory]]:
    """Everybody's turn at one measure; returns the runs and each one's memory after 16 requests, if those are it."""
    runs: list[Run] = []
    memory: dict[str, machine.Memory] = {}
    first = round_ % len(workers)
    for worker in [*workers[first:], *workers[:first]]:
        if measure == MEMORY_MEASURE:
            machine.forget_peak(worker.pid)
        turns = _turn(worker, [other for other in workers if other is not worker], measure, round_, workload)
        if measure == MEMORY_MEASURE:
            memory[worker.contender.name] = machine.memory(worker.pid)
        runs += turns
        shown = ", ".join(f"{run.value:.2f}" for run in turns)
        say(f"   round {round_}  {measure:<14} {worker.contender.name:<24} {shown}")
    return runs, memory


@contextlib.contextmanager
def held(lock: Path | None) -> Iterator[None]:
    """Hold a lock file (flock), if one is named."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _turn(worker: Worker, others: Sequence[Worker], measure: Measure, round_: int, workload: Workload) -> list[Run]:
    worker.run(workload.awakening())
    time.sleep(SETTLE_S)
    runs = []
    for jobs in workload.jobs(measure, round_):
        neighbours = [each.pid for each in others]
        family = [worker.process.pid] if worker.process is not None else []
        before = (time.perf_counter(), machine.machine_processor_s(), *map(machine.processor_s, (family, neighbours)))
        answers = worker.run(jobs)
        after = (time.perf_counter(), machine.machine_processor_s(), *map(machine.processor_s, (family, neighbours)))
        wall, whole, own, beside = (late - early for late, early in zip(after, before, strict=True))
        value, details = judge(workload, measure, jobs, answers)
        runs.append(
            Run(
                contender=worker.contender.name,
                measure=measure,
                round=round_,
                value=round(value, 4),
                details={name: round(figure, 3) for name, figure in details.items()},
                processor_s=round(own, 3),
                neighbours_cores=round(beside / wall, 3),
                strangers_cores=round(max(0.0, whole - own - beside) / wall, 3),
            )
        )
    return runs


def describe(contender: Contender) -> dict[str, Any]:
    """A contender for the result's head."""
    return {
        "precision": contender.precision,
        "api": contender.api,
        "profile": contender.profile,
        "versions": contender.versions(),
    }
