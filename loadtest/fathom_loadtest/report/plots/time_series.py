"""How a run went, second by second, as the client saw it: throughput, latencies, failures, requests under way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from fathom_loadtest.report.document import Report, StageReport
from fathom_loadtest.report.numbers import short
from fathom_loadtest.report.plots.canvas import BAD, Plot, colour_of, draw, legend, plain_ticks
from fathom_loadtest.report.plots.load_curves import latencies
from fathom_loadtest.report.plots.steps import Steps, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS: Final = 40
"""Rows of the table under a plot over time; it shows every n-th step then."""
WIDE: Final = (9.6, 2.6)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """One line over time: where it stands since the first stage opened, in seconds, and its values."""

    label: str
    colour: str
    edges_s: tuple[float, ...]
    values: list[Value]
    line: str = "-"
    named: bool = True


def over_time(report: Report, stages: Sequence[StageReport]) -> list[Plot]:
    """Draw what the client saw over time, all stages on one axis."""
    zero_ns = min(stage.opened_ns for stage in stages)
    cut = [(stage, steps) for stage in stages if (steps := Steps.of(stage))]
    if not cut:
        return []

    def shifted(stage: StageReport, steps: Steps) -> tuple[float, ...]:
        return tuple(edge + (stage.opened_ns - zero_ns) / 1e9 for edge in steps.edges_s)

    def stretches(read: Callable[[StageReport, Steps], list[Value]]) -> list[_Stretch]:
        return [
            _Stretch(stage.label, colour_of(stage), shifted(stage, steps), read(stage, steps)) for stage, steps in cut
        ]

    longest = max(steps.seconds for _, steps in cut)
    every = f"Each step is {longest:.3g} s; warm-ups between stages are left out."
    drawn = []
    if report.scenario.streamed:
        tokens = stretches(lambda stage, steps: steps.rates(stage.series.output_tokens))
        drawn.append(_plot("Output tokens over time", every, "tokens/s", tokens))
    requests = stretches(lambda stage, steps: steps.rates(stage.series.succeeded))
    if any(any(stage.series.failed) for stage, _ in cut):
        requests += [
            _Stretch("failed", BAD, shifted(stage, steps), steps.rates(stage.series.failed), "--", place == 0)
            for place, (stage, steps) in enumerate(cut)
        ]
    drawn.append(_plot("Requests over time", f"Requests that ended. {every}", "requests/s", requests))
    for name, _ in latencies(report):
        own = name.removeprefix("due_")
        if any(value is not None for stage, _ in cut for value in getattr(stage.series, f"{own}_p50")):
            drawn.append(_latency(own, _PLAIN[own], cut, shifted, longest))
    under_way = stretches(lambda stage, steps: steps.joined([float(n) for n in stage.series.in_flight], max))
    drawn.append(
        _plot(
            "Requests under way over time", f"The client's count, highest of each step of {longest:.3g} s.", "requests",
            under_way,
        )
    )  # fmt: skip
    return drawn


_PLAIN: Final = {"ttft_ms": "TTFT", "itl_ms": "ITL", "request_latency_ms": "Request latency"}


def _latency(
    name: str,
    label: str,
    cut: Sequence[tuple[StageReport, Steps]],
    shifted: Callable[[StageReport, Steps], tuple[float, ...]],
    longest: float,
) -> Plot:
    lines = []
    for stage, steps in cut:
        middle = steps.joined(getattr(stage.series, f"{name}_p50"), median)
        tail = steps.joined(getattr(stage.series, f"{name}_p95"), max)
        lines.append(_Stretch(stage.label, colour_of(stage), shifted(stage, steps), middle))
        lines.append(_Stretch(f"{stage.label}, p95", colour_of(stage), shifted(stage, steps), tail, ":", False))
    joined = "" if max(steps.size for _, steps in cut) == 1 else ", the median and the highest of its seconds"
    caption = (
        f"Median (solid) and p95 (dotted) of the requests that ended in a step of {longest:.3g} s{joined}, from their "
        "start."
    )
    return _plot(f"{label} over time", caption, "ms", lines)


def _plot(title: str, caption: str, unit: str, lines: Sequence[_Stretch]) -> Plot:
    """Draw lines over time as steps, in one plot as wide as the page."""

    def paint(axes: "Axes") -> None:
        import numpy as np

        seen: list[float] = []
        for line in lines:
            values = [float("nan") if value is None else value for value in line.values]
            label = line.label if line.named else None
            axes.stairs(
                values, line.edges_s, baseline=None, color=line.colour, linewidth=1.5, label=label, linestyle=line.line
            )
            known = [value for value in line.values if value is not None]
            if len(known) < 3:  # a step that stands alone is easily overlooked
                middles = (np.asarray(line.edges_s[:-1]) + np.asarray(line.edges_s[1:])) / 2
                axes.plot(middles, values, "o", color=line.colour, markersize=3.5)
            seen += known
        if unit == "ms" and seen and min(seen) > 0 and max(seen) > 20 * min(seen):
            axes.set_yscale("log")
            plain_ticks(axes.yaxis)
        else:
            axes.set_ylim(0, max(seen, default=0) * 1.08 or 1)
        axes.set_xlim(0, max(line.edges_s[-1] for line in lines))
        axes.set_xlabel("s since the first stage began")
        axes.set_ylabel(unit)
        legend(axes, columns=8 if max(len(line.label) for line in lines) < 10 else 4)

    return draw(title, caption, paint, ("series", "from, s", "to, s", unit), _rows(lines), size=WIDE)


def _rows(lines: Sequence[_Stretch]) -> list[tuple[str, str, str, str]]:
    total = sum(len(line.values) for line in lines)
    each = -(-total // MOST_ROWS) or 1
    return [
        (line.label, f"{line.edges_s[place]:.1f}", f"{line.edges_s[place + 1]:.1f}", short(line.values[place]))
        for line in lines
        for place in range(0, len(line.values), each)
    ]
