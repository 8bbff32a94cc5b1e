"""A calibration for people to read: ``calibration.md`` and ``calibration.svg``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fathom_export.cascade.calibrate import Finding, SignalCurve
from fathom_export.cascade.curve import Point

PAGE_FILE: Final = "calibration.md"
PICTURE_FILE: Final = "calibration.svg"

_INK: Final = "#1b2733"
_SOFT: Final = "#5d6b78"
_RULE: Final = "#d9dfe5"
_COLOURS: Final = {
    "mean_logprob": "#0f6fc6",
    "min_logprob": "#1f8a5b",
    "mean_entropy": "#7a4fb5",
    "max_entropy": "#b5762a",
    "agreement": "#5d6b78",
    "verifier": "#d08fb0",
    "learned": "#c8442b",
    "hook": "#1b2733",
}


def save_page(finding: Finding, folder: Path, name: str) -> None:
    """Write the page and its picture."""
    (folder / PAGE_FILE).write_text("\n".join(_lines(finding, name)) + "\n", encoding="utf-8")
    save_picture(finding, folder / PICTURE_FILE)


def table(finding: Finding) -> str:
    """Every signal with its choice, in Markdown."""
    lines = [
        "| signal | separation | threshold | handed over | accuracy | large tokens | cost | elsewhere: right | cost |",
        "|" + "---|" * 9,
    ]
    for curve in sorted(finding.curves, key=lambda each: each.choice.cost if each.choice else 9.0):
        cells = [curve.signal, f"{curve.separation:.3f}", *_choice(curve.choice), *_check(curve)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def save_picture(finding: Finding, path: Path) -> None:
    """Draw accuracy against cost into a file, SVG or PNG by its name: a line a signal, a mark at its choice."""
    import matplotlib

    style: dict[Any, Any] = {"svg.hashsalt": "fathom", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    with matplotlib.rc_context(style | {"axes.spines.right": False, "axes.grid": True, "grid.color": _RULE}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.subplots()
        axes.axhline(finding.large_accuracy * 100, color=_INK, linewidth=1, linestyle="--")
        axes.axhline(finding.small_accuracy * 100, color=_SOFT, linewidth=1, linestyle=":")
        for accuracy, text in ((finding.large_accuracy, "large alone"), (finding.small_accuracy, "small alone")):
            axes.annotate(text, (1.0, accuracy * 100), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        for curve in finding.curves:
            colour = _COLOURS[curve.signal]
            costs = [point.cost * 100 for point in curve.points]
            axes.plot(costs, [point.accuracy * 100 for point in curve.points], color=colour, label=curve.signal)
            if curve.choice is not None:
                axes.plot(curve.choice.cost * 100, curve.choice.accuracy * 100, "o", color=colour)
        axes.set(xlabel="cost, % of the large model alone (its tokens)", ylabel="right answers, %")
        axes.set_title("Quality against cost", loc="left", fontsize=10, fontweight="bold", color=_INK)
        axes.legend(loc="lower right", frameon=False, bbox_to_anchor=(1.0, 0.08))
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _lines(finding: Finding, name: str) -> Iterator[str]:
    choice = finding.chosen.choice
    yield f"# Calibration of {name}"
    yield ""
    yield (
        f"{finding.rows} held-out questions; target: {finding.target.describe()}. Alone, the small model is right in "
        f"{finding.small_accuracy:.1%}, the large one in {finding.large_accuracy:.1%}, either in "
        f"{finding.either_accuracy:.1%}. A token of the small model costs {finding.small_cost:g} of one of the large."
    )
    yield ""
    if choice is not None:
        yield (
            f"Chosen: **{finding.chosen.signal}**, threshold {choice.threshold:.6g}: accuracy {choice.accuracy:.1%} at "
            f"a cost of {choice.cost:.1%} of the large model alone"
            f"{f', {finding.routed:.1%} of the questions routed by their prompts' if finding.routed else ''}."
        )
        yield ""
    yield table(finding)
    yield ""
    yield (
        "*Separation* is the area under the ROC curve of right small answers against wrong ones. *Large tokens* and "
        "*cost* are shares of what the large model takes for all questions. *Elsewhere* is what thresholds give that "
        "were chosen on four fifths of the questions, on the other fifth."
    )
    yield ""
    yield "| task | small | large |"
    yield "|---|---|---|"
    for task, (small, large) in finding.by_task.items():
        yield f"| {task} | {small:.1%} | {large:.1%} |"
    yield ""
    yield f"![Quality against cost]({PICTURE_FILE})"


def _choice(point: Point | None) -> list[str]:
    if point is None:
        return ["none", "", "", "", ""]
    return [
        f"{point.threshold:.4g}",
        f"{point.handed_over:.1%}",
        f"{point.accuracy:.1%}",
        f"{point.large_tokens:.1%}",
        f"{point.cost:.1%}",
    ]


def _check(curve: SignalCurve) -> list[str]:
    return ["", ""] if curve.check is None else [f"{curve.check.accuracy:.1%}", f"{curve.check.cost:.1%}"]
