"""One plot as SVG that takes its colours and type from the page around it, with its values as text."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any, Final, cast

from fathom_loadtest.report.document import StageReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES: Final = 8
"""How many stages have a colour of their own; further ones begin again with the first."""

# Stand-ins that matplotlib writes into the SVG and the page's own colours replace.
_INK: Final = "#000001"
_RULE: Final = "#000002"
BAD: Final = "#000003"
"""Colour of what should not be: failures, broken limits."""
GOOD: Final = "#000004"
"""Colour of what became better."""
NEUTRAL: Final = _INK
"""Colour of what says nothing."""
COLOURS: Final = tuple(f"#0000{number:02x}" for number in range(0x10, 0x10 + SERIES))
"""Colours of the series, in the page's order."""
_CSS: Final = {
    _INK: "var(--ink-soft)",
    _RULE: "var(--rule)",
    BAD: "var(--bad)",
    GOOD: "var(--good)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(COLOURS)},
}
_STYLE: Final = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _RULE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "path.simplify_threshold": 0.5,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot: its title, one sentence on how to read it, the SVG element, and its values as a table.

    ``rows`` hold text; the first column of each names the row.
    """

    title: str
    caption: str
    svg: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def draw(
    title: str,
    caption: str,
    paint: Callable[["Axes"], None],
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    size: tuple[float, float] = (4.6, 2.8),
) -> Plot:
    """Draw one plot, ``size`` inches wide and high; ``paint`` is handed the empty axes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(cast(Any, {**_STYLE, "svg.hashsalt": title})):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        paint(axes)
        written = StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = _fit_page(written.getvalue(), title, _spoken(title, caption, headings, rows))
    return Plot(title, caption, svg, tuple(headings), tuple(tuple(row) for row in rows))


def _spoken(title: str, caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Say what a plot shows: its title, its caption, its first and its last row."""
    ends = [", ".join(f"{name} {cell}" for name, cell in zip(headings, row, strict=True)) for row in rows]
    said = f"{title}. {caption}"
    if ends:
        said += f" {ends[0]}" + (f"; to {ends[-1]}." if len(ends) > 1 else ".")
    return f"{said} All values are in the table below."


def _fit_page(svg: str, title: str, spoken: str) -> str:
    """Make an SVG document an element of the page: its colours, its type, identifiers of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-")
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    for colour, css in _CSS.items():
        svg = svg.replace(colour, css)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(spoken, quote=True)}" ', 1)


def colour_of(stage: StageReport) -> str:
    """Give the colour of a stage, the same in every plot."""
    return COLOURS[stage.stage % SERIES]


def legend(axes: "Axes", *, columns: int = 4) -> None:
    """Put the legend above the axes, where several series are named."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=min(len(handles), columns),
            borderaxespad=0.2, handlelength=1.2, columnspacing=1.2,
        )  # fmt: skip


def plain_ticks(axis: Any) -> None:
    """Write a logarithmic axis's ticks as numbers, not as powers, and not too many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
