"""What more load does: throughput over load, latency over throughput; one point a stage."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fathom_loadtest.report.document import Report, StageReport
from fathom_loadtest.report.numbers import short
from fathom_loadtest.report.plots.canvas import BAD, COLOURS, Plot, draw, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def load_curves(report: Report, stages: Sequence[StageReport]) -> list[Plot]:
    """Draw the curves of stages that differ in load; nothing for a single one."""
    if len(stages) < 2:
        return []
    ordered = sorted(stages, key=offered)
    curves = [_throughput_over_load(ordered, report)]
    for name, label in latencies(report):
        with_figure = [stage for stage in ordered if getattr(stage.figures, name)]
        if len(with_figure) > 1:
            curves.append(_latency_over_throughput(with_figure, name, label, report))
    return curves


def latencies(report: Report) -> list[tuple[str, str]]:
    """Give name and label of each latency that this report's requests are felt by."""
    due = any(stage.figures.due_request_latency_ms for stage in report.stages)
    whole = ("due_request_latency_ms", "Request latency from the intended start")
    names = [whole if due else ("request_latency_ms", "Request latency")]
    if report.scenario.streamed:
        first = ("due_ttft_ms", "TTFT from the intended start") if due else ("ttft_ms", "TTFT")
        names = [first, ("itl_ms", "ITL"), *names]
    return names


def offered(stage: StageReport) -> float:
    """Load that the stage offered: requests/s in an open loop, users in a closed one."""
    return stage.users if stage.rate is None else stage.rate


def _throughput(stage: StageReport, report: Report) -> float:
    figures = stage.figures
    return (figures.output_token_throughput if report.scenario.streamed else figures.request_throughput) or 0.0


def _unit(report: Report) -> str:
    return "output tokens/s" if report.scenario.streamed else "requests/s"


def _throughput_over_load(stages: Sequence[StageReport], report: Report) -> Plot:
    loads = [offered(stage) for stage in stages]
    values = [_throughput(stage, report) for stage in stages]
    open_loop = any(stage.rate is not None for stage in stages)
    unit, load_unit = _unit(report), "offered requests/s" if open_loop else "users"

    def paint(axes: "Axes") -> None:
        axes.plot(loads, values, color=COLOURS[0], marker="o", markersize=4, linewidth=1.6)
        if loads[0] * 8 <= loads[-1]:
            axes.set_xscale("log", base=2)
        few = loads if len(loads) <= 8 else loads[:: 1 + len(loads) // 8]
        axes.set_xticks(few, [f"{load:.4g}" for load in few])
        axes.minorticks_off()
        axes.set_xlabel(load_unit)
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)

    rows = [(f"{load:.4g}", short(value)) for load, value in zip(loads, values, strict=True)]
    noun = "Output token throughput" if report.scenario.streamed else "Request throughput"
    return draw(f"{noun} over load", "Where the line flattens, the server is full.", paint, (load_unit, unit), rows)


def _latency_over_throughput(stages: Sequence[StageReport], name: str, label: str, report: Report) -> Plot:
    throughputs = [_throughput(stage, report) for stage in stages]
    ranks = {rank: [getattr(getattr(stage.figures, name), rank) for stage in stages] for rank in ("p50", "p95", "p99")}
    slo_name = name.removeprefix("due_")
    limit = next((slo.limit_ms for slo in report.scenario.slos if slo.name == slo_name), None)

    def paint(axes: "Axes") -> None:
        for (rank, values), line, colour in zip(ranks.items(), ("-", "--", ":"), (0, 1, 3), strict=True):
            axes.plot(
                throughputs, values, line, color=COLOURS[colour], marker="o", markersize=4, linewidth=1.6, label=rank
            )
        tops = ranks["p99"]
        for stage, across, up in zip(stages, throughputs, tops, strict=True):
            axes.annotate(
                f"{offered(stage):.4g}", (across, up), xytext=(0, 5), textcoords="offset points", ha="center", size=9
            )
        top = max(tops)
        if limit is not None and limit <= 3 * top:
            axes.axhline(limit, color=BAD, linewidth=1.1, linestyle=(0, (5, 2)), label=f"SLO {limit:g} ms")
            top = max(top, limit)
        axes.set_xlabel(_unit(report))
        axes.set_ylabel("ms")
        axes.set_ylim(0, top * 1.18 or 1)  # room for the topmost label
        legend(axes)

    load_unit = "requests/s offered" if any(stage.rate is not None for stage in stages) else "users"
    rows = [
        (stage.label, short(throughput), *(short(ranks[rank][place]) for rank in ranks))
        for place, (stage, throughput) in enumerate(zip(stages, throughputs, strict=True))
    ]
    return draw(
        f"{label} over throughput",
        f"One point a stage, labelled with its {load_unit}.",
        paint,
        ("stage", _unit(report), *(f"{rank}, ms" for rank in ranks)),
        rows,
    )
