"""``large`` writes data, ``small`` is trained on what passed, and both are examined before and after: one command.

    python -m examples.distil                  # rewrites examples/distil/results.json and the tables in docs/synth.md
    python -m examples.distil --prompts 2000 --steps 40 --output distil.json      # a quick look

It begins anew each time, so that its figures are of one run; ``--examine`` examines the students that a run left, which
tells no times. What it leaves in .fathom/distil/ may be deleted. Filters off means: the same answers, all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.page import write_part
from benchmarks.peers import machine
from benchmarks.peers.served import serve_repository
from examples.distil.questions import write_questions
from examples.distil.report import read_lines, read_truth, render, right_answers, share

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = machine.ROOT
MODELS: Final = ROOT / "examples" / "models"
WORK: Final = ROOT / ".fathom" / "distil"
RESULT: Final = HERE / "results.json"
PAGE: Final = ROOT / "docs" / "synth.md"
KINDS: Final = ("filtered", "unfiltered")


def main(argv: Sequence[str] | None = None) -> int:
    """Export, serve, ask, sift, train twice, examine three times, write; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.distil", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=8_000, help="questions (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=450, help="of training, each kind (default: %(default)s)")
    parser.add_argument("--step-tokens", type=int, default=5_000, help="default: %(default)s")
    parser.add_argument("--examine", action="store_true", help="ask and train nothing; examine what a run left")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON to write instead of results and page")
    options = parser.parse_args(argv)
    began = time.monotonic()
    asked_s = None if options.examine else ask_and_train(options)
    accuracy = {
        "teacher": json.loads((MODELS / "large" / "accuracy.json").read_text(encoding="utf-8")),
        **examine({"before": MODELS / "small", **{kind: WORK / kind for kind in KINDS}}),
    }
    training = json.loads((WORK / KINDS[0] / "training.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = {
        "command": "python -m examples.distil",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "steps": training["steps"],
        "step_tokens": training["step_tokens"],
        "data": describe_data(WORK / "data", asked_s),
        "accuracy": accuracy,
        "held_out_rows": accuracy["before"]["rows"],
        "minutes": None if options.examine else round((time.monotonic() - began) / 60, 1),
    }
    print(render(result))
    (options.output or RESULT).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.output is None:
        write_part(PAGE, "distil", render(result))
    return 0


def ask_and_train(options: argparse.Namespace) -> float:
    """Let the teacher answer and train a student on each kind of data; gives the seconds that the answers took."""
    shutil.rmtree(WORK / "data", ignore_errors=True)
    write_questions(WORK, options.prompts)
    with serve_repository(export_teacher()) as served:
        began = time.monotonic()
        run("fathom_synth", "run", str(HERE / "job.toml"), "--url", served.url)
        asked_s = time.monotonic() - began
    train_students(write_kinds(WORK / "data"), options)
    return asked_s


def export_teacher() -> Path:
    """Export ``large`` in int8, unless it is there."""
    repository = WORK / "repository"
    source = (str(MODELS / "large"), "--name", "large", "--task", "generate", "--precision", "int8")
    run("fathom_export.cli", *source, "--max-batch", "32", "--repository", str(repository), "--quality", "off")
    return repository


def write_kinds(data: Path) -> list[Path]:
    """Write what the students learn from: the rows that passed, and all answers."""
    passed, dropped = data / "rows.jsonl", data / "rejected.jsonl"
    paths = [WORK / f"{kind}.jsonl" for kind in KINDS]
    shutil.copyfile(passed, paths[0])
    paths[1].write_bytes(passed.read_bytes() + dropped.read_bytes())
    return paths


def train_students(paths: Sequence[Path], options: argparse.Namespace) -> None:
    """Train a student on each kind of data, side by side, one thread each."""
    flags = ["--steps", str(options.steps), "--step-tokens", str(options.step_tokens)]
    module = "examples.distil.student"
    side_by_side([[sys.executable, "-m", module, str(path), str(WORK / path.stem), *flags] for path in paths])


def side_by_side(commands: Sequence[Sequence[str]]) -> None:
    """Run commands at once, one thread each: threads that wait for each other are slow where cores are shared."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=sys.stderr) for command in commands]
    try:
        failed = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(failed):
        raise SystemExit("error: a process ended early; its message stands above")


def describe_data(data: Path, seconds: float | None) -> dict[str, Any]:
    """What was asked, what each filter dropped, and how much of it is true."""
    card = json.loads((data / "card.json").read_text(encoding="utf-8"))
    truth = read_truth(WORK)
    passed = right_answers(read_lines(WORK / "filtered.jsonl"), truth)
    everything = right_answers(read_lines(WORK / "unfiltered.jsonl"), truth)
    return {
        "prompts": sum(prompt["prompts"] for prompt in card["prompts"]),
        "answers": card["answers"],
        "rows": card["rows"],
        "seconds": None if seconds is None else round(seconds, 1),
        "filters": [{name: stage[name] for name in ("filter", "seen", "dropped")} for stage in card["filters"]],
        "right": {
            "all": {task: round(sum(marks) / len(marks), 4) for task, marks in everything.items()},
            "passed": {task: round(sum(marks) / len(marks), 4) for task, marks in passed.items()},
            "all_share": round(share(everything), 4),
            "passed_share": round(share(passed), 4),
        },
    }


def examine(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Exact match on the held-out rows, by the example models' own examination."""
    outputs = {name: WORK / f"accuracy-{name}.json" for name in folders}
    examination = [sys.executable, str(MODELS / "evaluate.py")]
    side_by_side([[*examination, str(folders[name]), "--output", str(outputs[name])] for name in folders])
    return {name: json.loads(output.read_text(encoding="utf-8")) for name, output in outputs.items()}


def run(module: str, *arguments: str) -> None:
    """Run one of Fathom's commands."""
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
