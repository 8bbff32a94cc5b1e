"""A comparison as one page that needs nothing but itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fathom_loadtest.compare.comparison import Comparison, Difference, StageComparison
from fathom_loadtest.compare.text import change_text, headline, interval_text, method_text, remarks, value_text
from fathom_loadtest.report.html import readable_time, templates
from fathom_loadtest.report.plots.canvas import BAD, GOOD, NEUTRAL, Plot, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def to_html(comparison: Comparison) -> str:
    """Write the page."""
    environment = templates()
    environment.filters.update(
        value_a=lambda difference: value_text(difference, difference.a),
        value_b=lambda difference: value_text(difference, difference.b),
        change=change_text,
        interval=interval_text,
    )
    page: str = environment.get_template("comparison.html").render(
        comparison=comparison,
        a_started=readable_time(comparison.a.started_at),
        b_started=readable_time(comparison.b.started_at),
        headline=headline(comparison),
        remarks=remarks(comparison),
        method=method_text(comparison),
        stages=[(stage, _plot(stage, comparison.tolerance.min_effect)) for stage in comparison.stages],
    )
    return page


def save_html(comparison: Comparison, path: Path) -> None:
    """Write ``to_html``."""
    path.write_text(to_html(comparison), encoding="utf-8")


def _plot(stage: StageComparison, effect: float) -> Plot | None:
    """Draw each relative change with its interval; None where there is no such figure."""
    drawn = [one for one in stage.differences if not one.measure.absolute and one.low is not None]
    if not drawn:
        return None

    def paint(axes: "Axes") -> None:
        _paint(axes, drawn, effect)

    rows = [(one.measure.name, change_text(one), interval_text(one), one.verdict) for one in drawn]
    caption = "A dot is the change of B against A, its bar the interval; inside the dotted lines a change is too small."
    size = (9.6, 0.9 + 0.24 * len(drawn))
    headings = ("figure", "change", "interval", "verdict")
    return draw(f"Changes, {stage.label}", caption, paint, headings, rows, size=size)


def _paint(axes: "Axes", drawn: Sequence[Difference], effect: float) -> None:
    colours = {"worse": BAD, "better": GOOD}
    for place, one in enumerate(drawn):
        if one.low is None or one.high is None or one.change is None:
            continue
        colour = colours.get(one.verdict, NEUTRAL)
        axes.plot([100 * one.low, 100 * one.high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot([100 * one.change], [place], "o", color=colour, markersize=5)
    axes.axvline(0, color=NEUTRAL, linewidth=1)
    for edge in (-100 * effect, 100 * effect):
        axes.axvline(edge, color=NEUTRAL, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(drawn)), [one.measure.name for one in drawn])
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.set_xlabel("change of B against A, %")
