"""Speed of the served LLM beside other engines, in one run.

    python -m benchmarks.peers                        # all, five rounds: about half an hour, more the first time
    python -m benchmarks.peers --rounds 1 --only 'Fathom*' --output /tmp/here
    python -m benchmarks.peers --redraw               # table and picture again, from the newest result

Environments, converted models and the checkpoint are made once, below --cache.
"""

import argparse
import contextlib
import fnmatch
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import machine, report, rounds
from benchmarks.peers.checkpoint import TINY, ModelShape, write_checkpoint
from benchmarks.peers.contenders import CONTENDERS, Contender
from benchmarks.peers.environments import UnavailableError
from benchmarks.peers.workload import MEASURES, Run, Workload

RESULTS: Final = machine.ROOT / "benchmarks" / "results"
PAGE: Final = machine.ROOT / "docs" / "performance.md"
BUSY_CORES: Final = 0.05


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, measure, write; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=3, help="starts that are timed (default: %(default)s)")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="contenders' names, as in a shell")
    parser.add_argument("--tiny", action="store_true", help="a model that is too small for figures to mean anything")
    parser.add_argument("--cache", type=Path, default=machine.ROOT / ".bench", help="(default: .bench)")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="for JSON, table and picture, in place of the docs"
    )
    parser.add_argument(
        "--lock", type=Path, metavar="FILE", help="hold this lock (flock) in each measure, where others measure, too"
    )
    parser.add_argument("--prepare", action="store_true", help="make what is needed, and measure nothing")
    parser.add_argument("--redraw", action="store_true", help="only draw the newest result again")
    options = parser.parse_args(argv)
    if options.tiny and options.output is None:
        parser.error("--tiny measures nothing that belongs in the docs; give --output FOLDER")
    if options.rounds < 1 or options.starts < 1:
        parser.error("--rounds and --starts are at least 1")
    folder, page = options.output or RESULTS, options.output / "performance.md" if options.output else PAGE
    if options.redraw:
        newest = max(folder.glob("peers-*.json"), default=None)
        if newest is None:
            parser.error(f"{folder} holds no peers-*.json to draw")
        report.redraw(json.loads(newest.read_text(encoding="utf-8")), newest, page)
        return 0
    try:
        result = measure(options, lambda result: report.save(result, folder))
    except UnavailableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if result is None:
        return 0
    path = report.save(result, folder)
    page.parent.mkdir(parents=True, exist_ok=True)
    report.redraw(result, path, page)
    print(f"\n{report.table(result)}\n\nwritten: {path}, {page}")
    return 0


def measure(options: argparse.Namespace, save: Callable[[report.Result], object]) -> report.Result | None:
    """Everything from the checkpoint to a result, saved as it grows; None if there was only to prepare."""
    shape = TINY if options.tiny else ModelShape()
    checkpoint = options.cache / f"llama-{shape.layers}x{shape.hidden}"
    write_checkpoint(checkpoint, shape)
    workload = Workload(vocabulary=shape.vocabulary)
    chosen = [each for each in CONTENDERS if any(fnmatch.fnmatch(each.name, pattern) for pattern in options.only)]
    if not chosen:
        raise SystemExit(f"error: nobody is named {options.only}; there are {', '.join(e.name for e in CONTENDERS)}")
    workers, missing = rounds.prepare(chosen, options.cache.resolve(), checkpoint.resolve(), _say)
    if options.prepare:
        return None
    result: report.Result | None = None
    with contextlib.ExitStack() as stack:
        loads = {}
        for worker in list(workers):
            stack.callback(worker.stop)
            try:
                loads[worker.contender.name] = rounds.start(worker, options.starts, workload, _say)
            except UnavailableError as error:
                missing[worker.contender.name] = str(error)
                workers.remove(worker)
                _say(f"   left out: {error}")
        if not workers:
            raise UnavailableError("nobody could be started")
        idle = rounds.idle_cores(workers)
        for name, cores in idle.items():
            if cores > BUSY_CORES:
                _say(f"   note: {name} keeps {cores:.2f} cores busy while it is idle, and so slows the others")
        runs: list[Run] = []
        memory: dict[str, machine.Memory] = {}
        for round_ in range(options.rounds):
            for run_of_measure in options.measures:
                with rounds.held(options.lock):
                    turns, now = rounds.run_measure(workers, run_of_measure, round_, workload, _say)
                runs, memory = runs + turns, {**memory, **now}
                result = _result(shape, workload, runs, _about(chosen, missing, loads, idle, memory))
                save(result)
    return result


def _about(
    chosen: Sequence[Contender],
    missing: Mapping[str, str],
    loads: Mapping[str, list[float]],
    idle: Mapping[str, float],
    memory: Mapping[str, machine.Memory],
) -> dict[str, dict[str, Any]]:
    """What is known of each contender beside its runs."""
    contenders = {each.name: rounds.describe(each) for each in chosen}
    for name, about in contenders.items():
        if name in missing:
            about["missing"] = missing[name]
            continue
        about |= {"load_s": loads[name], "idle_cores": idle[name]}
        if name in memory:
            about["memory"] = asdict(memory[name])
    return contenders


def _result(
    shape: ModelShape, workload: Workload, runs: Sequence[Run], contenders: Mapping[str, dict[str, Any]]
) -> report.Result:
    result: report.Result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "model": asdict(shape),
        "workload": asdict(workload),
        "contenders": contenders,
        "runs": [asdict(run) for run in runs],
    }
    report.summarise(result)
    return result


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
