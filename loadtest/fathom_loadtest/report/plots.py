"""The report's plots as SVG that takes its colours and type from the page around it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, cast

from fathom_loadtest.metrics import itl_ms, request_latency_ms, ttft_ms
from fathom_loadtest.recorder import RequestRecord
from fathom_loadtest.report.document import Report, StageReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES: Final = 8
"""How many stages have a colour of their own; further ones begin again with the first."""

# Stand-ins that matplotlib writes into the SVG and the page's own colours replace.
_INK: Final = "#000001"
_RULE: Final = "#000002"
_STAGE_COLOURS: Final = tuple(f"#0000{number:02x}" for number in range(0x10, 0x10 + SERIES))
_CSS: Final = {
    _INK: "var(--ink-soft)",
    _RULE: "var(--rule)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_STAGE_COLOURS)},
}
_MOST_POINTS: Final = 1500
_MOST_BUCKETS: Final = 60
_BUCKETS_S: Final = (0.5, 1, 2, 5, 10, 30, 60, 300)


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot: its title, one sentence on how to read it, and the SVG element."""

    title: str
    caption: str
    svg: str


def plots(report: Report) -> list[Plot]:
    """Draw every plot that this report's figures allow."""
    stages = [stage for stage in report.stages if stage.figures.succeeded]
    if not stages:
        return []
    streamed = report.scenario.streamed
    latencies: list[tuple[str, str, Callable[[RequestRecord], float | None]]] = [
        ("request_latency_ms", "Request latency", request_latency_ms)
    ]
    if streamed:
        latencies = [("ttft_ms", "TTFT", ttft_ms), ("itl_ms", "ITL", itl_ms), *latencies]
    drawn = []
    if len(stages) > 1:
        drawn.append(_throughput_over_users(stages, streamed=streamed))
        drawn += [_latency_over_throughput(stages, name, label, streamed=streamed) for name, label, _ in latencies]
    drawn += [_distribution(stages, label, value) for _, label, value in latencies]
    drawn.append(_throughput_over_time(stages, streamed=streamed))
    first = latencies[0]
    drawn.append(_latency_over_time(stages, first[1], first[2]))
    return drawn


def _draw(title: str, caption: str, paint: Callable[["Axes"], None]) -> Plot:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "font.size": 9.5,
        "text.color": _INK,
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
    }
    with mpl.rc_context(cast(Any, style)):
        figure = Figure(figsize=(4.6, 2.8), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        paint(axes)
        written = StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Plot(title, caption, _fit_page(written.getvalue(), title))


def _fit_page(svg: str, title: str) -> str:
    """Make an SVG document an element of the page: its colours, its type, identifiers of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    for colour, css in _CSS.items():
        svg = svg.replace(colour, css)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-")
    return re.sub(r'href="#', f'href="#{prefix}-', svg)


def _colour(stage: StageReport) -> str:
    return _STAGE_COLOURS[stage.stage % SERIES]


def _name(stage: StageReport) -> str:
    return f"{stage.users} user{'' if stage.users == 1 else 's'}"


def _legend(axes: "Axes", stages: Sequence[StageReport]) -> None:
    if len(stages) > 1:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=min(len(stages), 4),
            borderaxespad=0.2, handlelength=1.2, columnspacing=1.2,
        )  # fmt: skip


def _plain_ticks(axis: Any) -> None:
    """Write a logarithmic axis's ticks as numbers, not as powers, and not too many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _throughput(stage: StageReport, *, streamed: bool) -> float:
    figures = stage.figures
    return (figures.output_token_throughput if streamed else figures.request_throughput) or 0.0


def _throughput_over_users(stages: Sequence[StageReport], *, streamed: bool) -> Plot:
    noun, unit = ("Output token throughput", "tokens/s") if streamed else ("Request throughput", "requests/s")

    def paint(axes: "Axes") -> None:
        ordered = sorted(stages, key=lambda stage: stage.users)
        users = [stage.users for stage in ordered]
        values = [_throughput(stage, streamed=streamed) for stage in ordered]
        axes.plot(users, values, color=_STAGE_COLOURS[0], marker="o", markersize=4, linewidth=1.6)
        if users[0] * 8 <= users[-1]:
            axes.set_xscale("log", base=2)
        axes.set_xticks(users, [str(number) for number in users])
        axes.minorticks_off()
        axes.set_xlabel("users")
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)

    return _draw(f"{noun} over users", "Where the line flattens, the server is full.", paint)


def _latency_over_throughput(stages: Sequence[StageReport], name: str, label: str, *, streamed: bool) -> Plot:
    unit = "output tokens/s" if streamed else "requests/s"

    def paint(axes: "Axes") -> None:
        ordered = sorted((stage for stage in stages if getattr(stage.figures, name)), key=lambda stage: stage.users)
        x = [_throughput(stage, streamed=streamed) for stage in ordered]
        for rank, line, colour in (("p50", "-", 0), ("p95", "--", 1)):
            y = [getattr(getattr(stage.figures, name), rank) for stage in ordered]
            axes.plot(
                x, y, line, color=_STAGE_COLOURS[colour], marker="o", markersize=4, linewidth=1.6, label=rank,
            )  # fmt: skip
            if rank == "p95":
                for stage, across, up in zip(ordered, x, y, strict=True):
                    axes.annotate(
                        str(stage.users), (across, up), xytext=(0, 5), textcoords="offset points", ha="center", size=9
                    )
        axes.set_xlabel(unit)
        axes.set_ylabel("ms")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.12)  # room for the topmost label
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)

    return _draw(f"{label} over throughput", "One point a stage, labelled with its users.", paint)


def _distribution(stages: Sequence[StageReport], label: str, value: Callable[[RequestRecord], float | None]) -> Plot:
    import numpy as np

    def paint(axes: "Axes") -> None:
        seen: list[float] = []
        for stage in stages:
            values = sorted(
                found for record in stage.records if record.succeeded and (found := value(record)) is not None
            )
            if not values:
                continue
            shares = np.arange(1, len(values) + 1) / len(values)
            # the first step starts from zero, and no more points are drawn than the eye can tell apart
            keep = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MOST_POINTS)).astype(int))
            axes.step(
                [values[0], *np.asarray(values)[keep]], [0.0, *shares[keep]],
                where="post", color=_colour(stage), linewidth=1.6, label=_name(stage),
            )  # fmt: skip
            seen += (values[0], values[-1])
        if seen and min(seen) > 0 and max(seen) > 20 * min(seen):
            axes.set_xscale("log")
            _plain_ticks(axes.xaxis)
        axes.set_xlabel("ms")
        axes.set_ylabel("share of requests")
        axes.set_ylim(0, 1.02)
        _legend(axes, stages)

    return _draw(f"{label}, cumulative distribution", "The share of requests that were at most so slow.", paint)


def _bucket_s(stages: Sequence[StageReport]) -> float:
    longest = max((stage.closed_ns - stage.opened_ns) / 1e9 for stage in stages)
    return next((size for size in _BUCKETS_S if longest / size <= _MOST_BUCKETS), _BUCKETS_S[-1])


def _throughput_over_time(stages: Sequence[StageReport], *, streamed: bool) -> Plot:
    import numpy as np

    bucket = _bucket_s(stages)
    zero_ns = min(stage.opened_ns for stage in stages)
    noun, unit = ("Output tokens", "tokens/s") if streamed else ("Requests", "requests/s")

    def paint(axes: "Axes") -> None:
        for stage in stages:
            good = [record for record in stage.records if record.succeeded and record.response_ns]
            if streamed:
                times = np.asarray([at for record in good for at in record.response_ns])
                weights = np.asarray([tokens for record in good for tokens in record.response_tokens])
            else:
                times, weights = np.asarray([record.end_ns for record in good]), np.ones(len(good))
            end_s = (times.max() - stage.opened_ns) / 1e9
            edges = [*np.arange(0, end_s, bucket), end_s]
            if len(edges) > 2 and edges[-1] - edges[-2] < bucket / 2:
                del edges[-2]  # a sliver at the end would show a rate by chance
            counts, _ = np.histogram((times - stage.opened_ns) / 1e9, bins=edges, weights=weights)
            rates = [count / (later - earlier) for count, (earlier, later) in zip(counts, pairwise(edges), strict=True)]
            offset = (stage.opened_ns - zero_ns) / 1e9
            axes.stairs(
                rates, [offset + edge for edge in edges], baseline=None,
                color=_colour(stage), linewidth=1.6, label=_name(stage),
            )  # fmt: skip
        axes.set_xlabel("s since the first stage began")
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)
        _legend(axes, stages)

    return _draw(f"{noun} over time", f"Each step is {bucket:g} s; warm-ups between stages are left out.", paint)


def _latency_over_time(
    stages: Sequence[StageReport], label: str, value: Callable[[RequestRecord], float | None]
) -> Plot:
    zero_ns = min(stage.opened_ns for stage in stages)

    def paint(axes: "Axes") -> None:
        lowest, highest = float("inf"), 0.0
        for stage in stages:
            points = [
                ((record.start_ns - zero_ns) / 1e9, found)
                for record in stage.records
                if record.succeeded and (found := value(record)) is not None
            ]
            if not points:
                continue
            points = points[:: 1 + len(points) // _MOST_POINTS]
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=9, color=_colour(stage), linewidths=0, alpha=0.75, label=_name(stage))
            lowest, highest = min(lowest, *y), max(highest, *y)
        if lowest > 0 and highest > 20 * lowest:
            axes.set_yscale("log")
            _plain_ticks(axes.yaxis)
        else:
            axes.set_ylim(0, highest * 1.08 or 1)
        axes.set_xlabel("s since the first stage began")
        axes.set_ylabel("ms")
        _legend(axes, stages)

    return _draw(f"{label} over time", "One dot a request, at the moment it was sent.", paint)
