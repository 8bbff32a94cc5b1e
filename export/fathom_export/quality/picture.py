"""The quality card's picture: ``quality.svg``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fathom_export.quality.card import QualityCard

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIVERGENCES: Final = "kl_by_position"
SIMILARITIES: Final = "similarity"
REFERENCE_SIMILARITIES: Final = "reference_similarity"

_INK: Final = "#1b2733"
_SOFT: Final = "#5d6b78"
_RULE: Final = "#d9dfe5"
_EXPORT: Final = "#0f6fc6"
_REFERENCE: Final = "#b9c4cf"
_BAD: Final = "#c8442b"
_SMALLEST_KL: Final = 1e-9
_STYLE: Final[dict[str, Any]] = {
    "svg.hashsalt": "fathom",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _SOFT,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "legend.frameon": False,
}


def save_picture(card: QualityCard, path: Path) -> None:
    """Draw a card's figures into a file, SVG or PNG by its name; the card must have been measured."""
    import matplotlib

    panels = [
        draw
        for draw, there in (
            (_divergences, DIVERGENCES in card.series),
            (_tasks, card.accuracy is not None),
            (_similarities, SIMILARITIES in card.series),
            (_layers, bool(card.layers)),
        )
        if there
    ]
    if not panels:
        panels = [_sizes]
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]  # its keys are a type of their own
        from matplotlib.figure import Figure  # no pyplot: it would look for a display

        figure = Figure(figsize=(4.2 * len(panels) + 0.4, 3.6), layout="constrained")
        form = f"{card.precision}, {card.dialect}" if card.dialect else card.precision
        figure.suptitle(f"{card.model} ({form}): {card.verdict}", x=0.01, ha="left", color=_INK, fontsize=11)
        for axes, draw in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
            draw(axes, card)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _divergences(axes: "Axes", card: QualityCard) -> None:
    """Share of positions with a divergence above x."""
    values = np.sort(np.maximum(card.series[DIVERGENCES], _SMALLEST_KL))
    share = 1 - np.arange(len(values)) / len(values)
    axes.step(values, share, where="pre", color=_EXPORT)
    mean = card.logits[0].agreement.mean_kl
    if mean > 0:
        axes.axvline(max(mean, _SMALLEST_KL), color=_EXPORT, linestyle=":", label=f"mean {mean:.2g}")
    if card.thresholds.max_kl is not None:
        limit = card.thresholds.max_kl
        axes.axvline(max(limit, _SMALLEST_KL), color=_BAD, linestyle="--", label=f"limit of the mean {limit:g}")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="KL divergence, nats",
        ylabel="share of positions above",
        title=f"Divergence from {card.logits[0].reference.split(' (')[0]}",
    )
    axes.legend(fontsize=8, loc="lower left")


def _tasks(axes: "Axes", card: QualityCard) -> None:
    accuracy = card.accuracy
    assert accuracy is not None  # noqa: S101  # the panel is chosen by it
    tasks = list(accuracy.by_task)[::-1]
    places = np.arange(len(tasks))
    has_reference = accuracy.reference_by_task is not None
    height = 0.38 if has_reference else 0.6
    shares = [accuracy.by_task[task] for task in tasks]
    offset = height / 2 if has_reference else 0
    if accuracy.reference_by_task is not None:
        own = [accuracy.reference_by_task[task] for task in tasks]
        axes.barh(places + offset, own, height, color=_REFERENCE, label="fp32")
    axes.barh(places - offset, shares, height, color=_EXPORT, label=card.precision)
    axes.set(xlim=(0, 1), xlabel="share of right answers", title=f"Tasks, {accuracy.rows} questions")
    axes.set_yticks(places, tasks)
    axes.grid(visible=False, axis="y")
    if has_reference:
        _legend_below(axes)


def _similarities(axes: "Axes", card: QualityCard) -> None:
    one, other = card.series[REFERENCE_SIMILARITIES], card.series[SIMILARITIES]
    ends = [min(*one, *other), 1.0]
    axes.plot(ends, ends, color=_REFERENCE, linewidth=1)
    axes.scatter(one, other, s=4, color=_EXPORT, alpha=0.5, linewidths=0)
    axes.set(
        xlabel=f"cosine of a pair, {card.embeddings[0].reference.split(' (')[0]}",
        ylabel=f"cosine of a pair, {card.precision}",
        title=f"Similarities, rank correlation {card.embeddings[0].rank_correlation:.4f}",
    )


def _layers(axes: "Axes", card: QualityCard) -> None:
    places = np.arange(len(card.layers))
    bad = {error.layer for error in card.worst_layers[:3]}
    axes.bar(
        places,
        [error.relative_l2 for error in card.layers],
        color=[_BAD if error.layer in bad else _EXPORT for error in card.layers],
        label="its own (the three worst in red)",
    )
    axes.plot(places, [error.accumulated for error in card.layers], color=_INK, linewidth=1, label="accumulated")
    for error, place in zip(card.layers, places, strict=True):
        if error.layer in bad:
            text = (place, error.relative_l2)
            axes.annotate(error.layer, text, rotation=90, fontsize=7, ha="center", va="bottom", color=_INK)
    axes.set(xlabel="layer, from the embedding on", ylabel="relative L2 error", title="Error by layer")
    axes.set_xticks([])
    axes.margins(y=0.3)
    _legend_below(axes)


def _legend_below(axes: "Axes") -> None:
    """A legend that covers no figure."""
    axes.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1, -0.18), ncols=2, borderaxespad=0)


def _sizes(axes: "Axes", card: QualityCard) -> None:
    """What is left to show where nothing could be compared."""
    axes.bar(["source", card.precision], [card.source_bytes, card.export_bytes], color=[_REFERENCE, _EXPORT])
    axes.set(ylabel="bytes", title="Weights")
