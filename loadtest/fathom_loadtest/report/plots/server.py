"""How a run went as the server saw it: its gauges and rates at each scrape of its metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fathom_loadtest.report.document import StageReport
from fathom_loadtest.report.numbers import short
from fathom_loadtest.report.plots.canvas import Plot, colour_of, draw, legend
from fathom_loadtest.report.plots.steps import Value, thinned
from fathom_loadtest.report.plots.time_series import MOST_ROWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fathom_loadtest.server_side.document import ServerSeries


@dataclass(frozen=True, slots=True)
class _Chart:
    """One plot: what it reads of a scrape, as (name, line, values)."""

    title: str
    caption: str
    unit: str
    read: Callable[["ServerSeries"], Sequence[tuple[str, str, Sequence[Value]]]]
    scale: float = 1.0
    top: float | None = None


_CHARTS: Final = (
    _Chart(
        "Server: requests running and waiting",
        "The engine's own gauges: requests that are computed (solid), and that wait for their turn (dotted).",
        "requests",
        lambda series: (("running", "-", series.running), ("waiting", ":", series.waiting)),
    ),
    _Chart(
        "Server: KV cache in use", "Share of the fullest engine's cache.", "%",
        lambda series: (("in use", "-", series.kv_cache_usage),), scale=100, top=105,
    ),
    _Chart(
        "Server: tokens", "The engine's counters: tokens generated (solid), and of prompts (dotted).", "tokens/s",
        lambda series: (
            ("generated", "-", series.generation_tokens_per_s), ("of prompts", ":", series.prompt_tokens_per_s),
        ),
    ),
    _Chart(
        "Server: batch size", "Requests an execution, of models that are no LLM.", "requests",
        lambda series: (("batch", "-", series.batch_size),),
    ),
    _Chart(
        "Server: time in the queue", "Average of a request, of models that are no LLM.", "ms",
        lambda series: (("queue", "-", series.queue_ms),),
    ),
    _Chart(
        "Server: requests pending", "Triton's gauge: requests that wait for an instance of their model.", "requests",
        lambda series: (("pending", "-", series.pending),),
    ),
    _Chart(
        "Server: memory", "Resident memory of its processes together.", "MiB",
        lambda series: (("resident", "-", series.rss_bytes),), scale=2**-20,
    ),
    _Chart(
        "Server: CPU", "CPU time of its processes by wall time; 100 % is one core.", "%",
        lambda series: (("CPU", "-", series.cpu_share),), scale=100,
    ),
    _Chart(
        "Server: GPU in use", "Utilisation as the driver tells it.", "%",
        lambda series: (("GPU", "-", series.gpu_utilization),), scale=100, top=105,
    ),
    _Chart(
        "Server: GPU memory", "Memory in use, all GPUs together.", "MiB",
        lambda series: (("GPU memory", "-", series.gpu_memory_bytes),), scale=2**-20,
    ),
)  # fmt: skip


def server_plots(stages: Sequence[StageReport]) -> list[Plot]:
    """Draw every series of the server that says something."""
    told = [stage for stage in stages if stage.server is not None and stage.server.series.at_s]
    if not told:
        return []
    zero_ns = min(stage.opened_ns for stage in stages)
    end_s = (max(stage.closed_ns for stage in stages) - zero_ns) / 1e9
    return [_plot(chart, told, zero_ns, end_s) for chart in _CHARTS if _says_something(chart, told)]


def _says_something(chart: _Chart, stages: Sequence[StageReport]) -> bool:
    return any(
        value
        for stage in stages
        if stage.server is not None
        for _, _, values in chart.read(stage.server.series)
        for value in values
    )


def _plot(chart: _Chart, stages: Sequence[StageReport], zero_ns: int, end_s: float) -> Plot:
    lines = []
    for stage in stages:
        assert stage.server is not None  # noqa: S101 - only such stages are handed in
        offset_s = (stage.opened_ns - zero_ns) / 1e9
        for name, style, values in chart.read(stage.server.series):
            at_s, thin = thinned(stage.server.series.at_s, values)
            if thin:
                lines.append((stage, name, style, [at + offset_s for at in at_s], [chart.scale * v for v in thin]))

    def paint(axes: "Axes") -> None:
        first = lines[0][1]
        for stage, name, style, at_s, values in lines:
            axes.plot(
                at_s, values, style, color=colour_of(stage), linewidth=1.5, marker="o" if len(values) < 3 else "",
                markersize=3.5, label=stage.label if name == first else None,
            )  # fmt: skip
        highest = max(max(values) for *_, values in lines)
        axes.set_ylim(0, chart.top or highest * 1.1 or 1)
        axes.set_xlim(0, end_s)
        axes.set_xlabel("s since the first stage began")
        axes.set_ylabel(chart.unit)
        legend(axes, columns=4 if max(len(stage.label) for stage, *_ in lines) < 10 else 2)

    each = -(-sum(len(values) for *_, values in lines) // MOST_ROWS) or 1
    rows = [
        (f"{stage.label}, {name}", f"{at_s[place]:.1f}", short(values[place]))
        for stage, name, _, at_s, values in lines
        for place in range(0, len(values), each)
    ]
    return draw(chart.title, chart.caption, paint, ("series", "at, s", chart.unit), rows)
