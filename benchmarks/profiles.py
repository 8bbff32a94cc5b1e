"""The profiles of an LLM: accuracy through the whole stack, and memory.

    python -m benchmarks.profiles              # about three minutes; rewrites the table in docs/performance.md

`large` and `small` of examples/models are exported in fp32 and in every profile, served by ``fathom-serve``, and asked
all held-out questions through gRPC, greedy, one at a time and sixteen at a time. Memory is that of the newest run of
``make bench``: all processes of a server of its 360 M model, after 16 requests at once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.page import write_part
from benchmarks.peers import machine
from benchmarks.peers.served import serve_repository

from fathom_client import Client
from fathom_export.spec.profile import PROFILES

MODELS: Final = machine.ROOT / "examples" / "models"
RESULTS: Final = machine.ROOT / "benchmarks" / "results"
PAGE: Final = machine.ROOT / "docs" / "performance.md"
SIZES: Final = ("large", "small")
TOGETHER: Final = (1, 16)
FORMS: Final = ("fp32", *PROFILES)
"""What a model is exported as: the reference, then each profile."""

FOR: Final = {
    "fp32": "reference",
    "latency": "one or two requests at a time: half the bytes to read for every token",
    "throughput": "many requests together, long prompts: products in int8 at full speed",
    "adaptive": "both: each request by the load at its start, or as it says (`precision`)",
}


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Right answers of one model, in percent, by how many were asked at a time; ``changed``: answers that differ."""

    percent: dict[int, float]
    changed: int


def main() -> int:
    """Export, serve, ask, write; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profiles", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=0, help="so many of each set (default: all)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON to write instead of results and docs")
    options = parser.parse_args()
    rows = read_rows()[: options.questions or None]
    with tempfile.TemporaryDirectory(prefix="fathom-profiles-") as work:
        repository = export_all(Path(work))
        with serve_repository(repository) as server, Client(server.url) as client:
            found = {size: {form: ask(client, f"{size}_{form}", rows) for form in FORMS} for size in SIZES}
    result = {
        "commit": machine.commit(),
        "questions": len(rows),
        "accuracy": {
            size: {form: {"percent": one.percent, "changed": one.changed} for form, one in forms.items()}
            for size, forms in found.items()
        },
    }
    text = table(found, len(rows), memory_mib(newest_peers()))
    print(text)
    path = options.output or RESULTS / "profiles.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.output is None:
        write_part(PAGE, "profiles", text)
    return 0


def read_rows() -> list[dict[str, Any]]:
    """The held-out questions."""
    return [json.loads(line) for line in (MODELS / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]


def export_all(work: Path) -> Path:
    """Both models in every form, in one repository."""
    lines = ['repository = "repository"']
    for size in SIZES:
        for form in FORMS:
            choice = f'profile = "{form}"' if form in PROFILES else f'precision = "{form}"'
            lines += [
                "[[models]]",
                f'name = "{size}_{form}"',
                f'source = "{MODELS / size}"',
                'task = "generate"',
                choice,
            ]
    bundle = work / "bundle.toml"
    bundle.write_text("\n".join(lines), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "fathom_export.cli", str(bundle), "--quality", "off"], check=True)
    return work / "repository"


def ask(client: Client, model: str, rows: list[dict[str, Any]]) -> Accuracy:
    """Ask a model everything, alone and in company."""
    sys.path.insert(0, str(MODELS))
    from fathom_examples.checkers import check

    sys.path.remove(str(MODELS))
    answers: dict[int, list[str]] = {}
    for together in TOGETHER:
        with ThreadPoolExecutor(together) as pool:
            answers[together] = list(
                pool.map(lambda row: client.chat(model, row["messages"], max_tokens=256).text, rows)
            )
    percent = {
        together: 100 * sum(check(row["checker"], text, row["answer"]) for row, text in zip(rows, texts, strict=True))
        / len(rows)
        for together, texts in answers.items()
    }  # fmt: skip
    changed = sum(alone != company for alone, company in zip(*answers.values(), strict=True))
    print(f"{model}: {percent}, {changed} answers differ", flush=True)
    return Accuracy({count: round(value, 2) for count, value in percent.items()}, changed)


def newest_peers() -> dict[str, Any]:
    """The newest result of ``make bench``; empty where there is none."""
    newest = max(RESULTS.glob("peers-*.json"), default=None)
    return {} if newest is None else json.loads(newest.read_text(encoding="utf-8"))


def memory_mib(peers: dict[str, Any]) -> dict[str, float]:
    """Resident memory of each profile's server."""
    return {
        each["profile"]: each["memory"]["rss_mib"]
        for each in peers.get("contenders", {}).values()
        if each.get("profile") and each.get("memory")
    }


def table(found: dict[str, dict[str, Accuracy]], questions: int, memory: dict[str, float]) -> str:
    """Everything as Markdown."""
    lines = [
        "| `profile` | weights | for | MiB of a 360 M model's server | `large`, alone / 16 together | `small` |",
        "|---|---|---|---:|---|---|",
    ]
    for form in FORMS:
        name = f"`{form}`" if form in PROFILES else f"none, {form}"
        accuracies = [
            " / ".join(f"{found[size][form].percent[count]:.1f}" for count in TOGETHER) + " %" for size in SIZES
        ]
        taken = f"{memory[form]:.0f}" if form in memory else ""
        lines.append(f"| {name} | {weights(form)} | {FOR[form]} | {taken} | {' | '.join(accuracies)} |")
    changed = {form: sum(found[size][form].changed for size in SIZES) for form in FORMS}
    told = ", ".join(f"{form} {count}" for form, count in changed.items())
    lines += ["", f"{questions} questions each, greedy. Answers that company changed, of both models: {told}."]
    return "\n".join(lines)


def weights(form: str) -> str:
    """What a form keeps weights in."""
    if form not in PROFILES:
        return "float32"
    profile = PROFILES[form]  # type: ignore[index] # one of its keys
    if profile.fast_lane is not None:
        return f"{weights('throughput')}; and {weights(profile.fast_lane)}"
    blocks = f"int4 in blocks of {profile.block_size}, embedding and LM head int8"
    return blocks if profile.block_size else "int8, one scale a column"


if __name__ == "__main__":
    sys.exit(main())
