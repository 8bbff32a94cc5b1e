"""Speculative decoding: tokens a second of one request with prompt lookup, with a draft model, and without.

    python -m benchmarks.speculation                 # about ten minutes, some more the first time
    python -m benchmarks.speculation --where engine  # a part; the rest of the result's file stays as it is

The example models answer their held-out questions, so drafts come true as often as they do in use: `small` (0.98 M
parameters) drafts for `large` (5.1 M), and for `deep`: `large` again, made to cost what a model of 305 M parameters
does. `deep` has wider projections and further layers whose additional weights add exact zeros, so it says what `large`
says, and a step takes as long as the arithmetic of its size does. Speculation pays by the ratio of the two models'
costs, and 5 M parameters have hardly any to save.

Workloads, one request at a time: `held_out`, questions of each task; `sampled`, the same at temperature 0.8 and top-p
0.9; `asked_again`, each question once more after its answer, so that the answer copies; `long`, a question's answer and
what the model goes on with, 96 tokens in all. Methods take turns on each question, in another order each time, so that
whatever else the machine does meets them all. A figure is the median of the rounds, a ratio the median of the rounds'
ratios to no speculation; the `calmest` ratio is that of the sums of each question's shortest time in all, prompt and
request included, for a machine that others use. Decode time is from an answer's first piece to its last; a server sends
what is ready together, so there the times in all are what counts. Answers are compared token for token.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import machine
from benchmarks.peers.served import serve_repository
from benchmarks.speculation import report
from benchmarks.speculation.contender import Contender
from benchmarks.speculation.in_process import EngineContender
from benchmarks.speculation.repository import METHODS, MODELS, newest_version, prepare
from benchmarks.speculation.rounds import measure
from benchmarks.speculation.served import ServedContender
from benchmarks.speculation.workloads import WORKLOADS, jobs

from fathom_client import Client

RESULT: Final = machine.ROOT / "benchmarks" / "results" / "speculation.json"
READY_S: Final = 180.0


def run(options: argparse.Namespace) -> None:
    """Measure everything that was asked for, and write each figure when it is there."""
    repository = prepare(options.cache, options.precision, rebuild=options.rebuild)
    results: dict[str, Any] = {}
    work = {workload: jobs(workload, options.questions) for workload in options.workloads}

    def measure_all(where: str, contender_of: Callable[[str], Contender]) -> None:
        for model in options.models:
            contenders = {method: contender_of(f"{model}_{method}") for method in METHODS}
            for workload in options.workloads:
                result = measure(contenders, work[workload], options.rounds)
                results.setdefault(where, {}).setdefault(model, {})[workload] = result
                report.write(options.output, options.precision, repository, results)
                print(f"{where:6} {model:5} {workload:12} {report.line(result)}", flush=True)
            for contender in contenders.values():
                contender.close()

    if "engine" in options.where:
        measure_all("engine", lambda name: EngineContender(newest_version(repository / name)))
    if "served" in options.where:
        with serve_repository(repository, READY_S) as server, Client(server.url, timeout=None) as client:
            measure_all("served", lambda name: ServedContender(client, name))


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, measure, write; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speculation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each method (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=4, help="questions of each task (default: %(default)s)")
    parser.add_argument("--precision", default="int8", help="of all models (default: %(default)s)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--where", nargs="+", choices=("engine", "served"), default=["engine", "served"])
    parser.add_argument("--rebuild", action="store_true", help="export the models again where something has changed")
    parser.add_argument("--cache", type=Path, default=machine.ROOT / ".bench" / "speculation")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON to write (default: %(default)s)")
    options = parser.parse_args(argv)
    run(options)
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
