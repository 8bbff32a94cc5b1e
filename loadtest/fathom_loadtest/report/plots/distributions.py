"""How a figure's values spread: cumulative distributions, one line a stage."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from fathom_loadtest.metrics import itl_ms, request_latency_ms, send_delay_ms, ttft_ms
from fathom_loadtest.record import RequestRecord
from fathom_loadtest.report.document import Report, StageReport
from fathom_loadtest.report.numbers import short
from fathom_loadtest.report.plots.canvas import Plot, colour_of, draw, legend, plain_ticks
from fathom_loadtest.report.plots.load_curves import latencies

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LINES: Final = 8
_MOST_POINTS: Final = 400
_SHOWN: Final = ("min", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "max")
_VALUES: Final = {"ttft_ms": ttft_ms, "itl_ms": itl_ms, "request_latency_ms": request_latency_ms}


def distributions(report: Report, stages: Sequence[StageReport]) -> list[Plot]:
    """Draw the distribution of each latency. Of many stages, some that are spread evenly are drawn."""
    if len(stages) > _MOST_LINES:
        step = (len(stages) - 1) / (_MOST_LINES - 1)
        stages = [stages[round(place * step)] for place in range(_MOST_LINES)]
    return [
        _distribution(with_figure, name, label)
        for name, label in latencies(report)
        if (with_figure := [stage for stage in stages if getattr(stage.figures, name)])
    ]


def _value(record: RequestRecord, name: str) -> float | None:
    value = _VALUES[name.removeprefix("due_")](record)
    if value is None or not name.startswith("due_"):
        return value
    return value + send_delay_ms(record)


def _distribution(stages: Sequence[StageReport], name: str, label: str) -> Plot:
    import numpy as np

    sampled = any(len(stage.records) < stage.figures.requests for stage in stages)

    def paint(axes: "Axes") -> None:
        seen: list[float] = []
        for stage in stages:
            values = sorted(
                found
                for record in stage.records
                if record.succeeded and not record.cancelled and (found := _value(record, name)) is not None
            )
            if not values:
                continue
            shares = np.arange(1, len(values) + 1) / len(values)
            # the first step starts from zero, and no more points are drawn than the eye can tell apart
            keep = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MOST_POINTS)).astype(int))
            axes.step(
                [values[0], *np.asarray(values)[keep]], [0.0, *shares[keep]],
                where="post", color=colour_of(stage), linewidth=1.6, label=stage.label,
            )  # fmt: skip
            seen += (values[0], values[-1])
        if seen and min(seen) > 0 and max(seen) > 20 * min(seen):
            axes.set_xscale("log")
            plain_ticks(axes.xaxis)
        axes.set_xlabel("ms")
        axes.set_ylabel("share of requests")
        axes.set_ylim(0, 1.02)
        legend(axes, columns=4 if max(len(stage.label) for stage in stages) < 10 else 2)

    rows = [(stage.label, *(short(getattr(getattr(stage.figures, name), rank)) for rank in _SHOWN)) for stage in stages]
    return draw(
        f"{label}, cumulative distribution",
        "The share of requests that were at most so slow"
        + (", of 5,000 requests a stage picked at random." if sampled else "."),
        paint,
        ("stage", *(f"{rank}, ms" for rank in _SHOWN)),
        rows,
    )
