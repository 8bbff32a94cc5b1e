"""What the example measured, as JSON and as tables in docs/synth.md."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MODELS = Path(__file__).resolve().parents[1] / "models"
sys.path.insert(0, str(MODELS))

from fathom_examples.checkers import check  # noqa: E402

Truth = Mapping[tuple[str, int], Mapping[str, str]]


def read_truth(folder: Path) -> Truth:
    """The seeds' true answers, by the prompt's name and the line."""
    truth = {}
    for name in ("questions", "objects"):
        with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
            for line, row in enumerate(file, start=1):
                truth[name, line] = json.loads(row)
    return truth


def right_answers(rows: Iterable[Mapping[str, Any]], truth: Truth) -> dict[str, list[bool]]:
    """Whether each row's answer is true, by task."""
    marks: dict[str, list[bool]] = defaultdict(list)
    asked = {row["question"]: row for row in truth.values()}
    for row in rows:
        *_, user, answer = row["messages"]
        seed = asked[user["content"]]
        marks[seed["task"]].append(check(seed["checker"], answer["content"], seed["answer"]))
    return marks


def share(marks: Mapping[str, list[bool]]) -> float:
    """Share of what is right, over all tasks."""
    flat = [mark for each in marks.values() for mark in each]
    return sum(flat) / len(flat)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def render(result: Mapping[str, Any]) -> str:
    """The tables."""
    machine, data = result["machine"], result["data"]
    minutes = "" if result["minutes"] is None else f": {result['minutes']} minutes"
    seconds = data["seconds"]
    rate = "" if seconds is None else f" in {seconds:.0f} s, {data['answers'] / seconds:.0f} answers/s"
    lines = [
        f"`{result['command']}` at {result['commit']}, {result['date']}, on {machine['processor']}, "
        f"{machine['cores']} cores{minutes}.",
        "",
        f"`large` gave {data['answers']:,} answers to {data['prompts']:,} questions{rate}. "
        f"{data['rows']:,} rows passed, one a question.",
        "",
        "| filter, in order | came | dropped |",
        "|---|---|---|",
        *(f"| {stage['filter']} | {stage['seen']:,} | {stage['dropped']:,} |" for stage in data["filters"]),
        "",
        "| share of answers that are right | all answers | what passed |",
        "|---|---|---|",
    ]
    for task in sorted(data["right"]["all"]):
        passed = data["right"]["passed"].get(task)
        shown = "–" if passed is None else f"{passed:.1%}"
        lines.append(f"| {task} | {data['right']['all'][task]:.1%} | {shown} |")
    lines += [
        f"| **all** | **{data['right']['all_share']:.1%}** | **{data['right']['passed_share']:.1%}** |",
        "",
        f"Held-out accuracy, exact match on {result['held_out_rows']:,} rows, of `small` before and after "
        f"{result['steps']} steps of {result['step_tokens']:,} tokens, the same for both kinds of data:",
        "",
        "| task | `large`, the teacher | `small` before | after, filters on | after, filters off |",
        "|---|---|---|---|---|",
    ]
    columns = ("teacher", "before", "filtered", "unfiltered")
    for task in result["accuracy"]["before"]["per_task"]:
        cells = " | ".join(f"{result['accuracy'][name]['per_task'][task]:.1%}" for name in columns)
        lines.append(f"| {task} | {cells} |")
    cells = " | ".join(f"**{result['accuracy'][name]['exact_match']:.1%}**" for name in columns)
    lines.append(f"| **all** | {cells} |")
    return "\n".join(lines)
