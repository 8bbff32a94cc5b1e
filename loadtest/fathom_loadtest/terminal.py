"""What the terminal shows at the end of a run: a table, the objectives and remarks."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from fathom_loadtest.metrics import Statistics
from fathom_loadtest.report import remarks as report_remarks
from fathom_loadtest.report.document import Report
from fathom_loadtest.report.numbers import percent, short


def summary_table(report: Report) -> Table:
    """One row a stage, 80 columns wide: throughput, errors, and the latencies' median and tail in milliseconds.

    In an open loop TTFT and latency count from the intended start.
    """
    scenario = report.scenario
    due = "due_" if any(stage.figures.due_request_latency_ms for stage in report.stages) else ""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    latencies = [("TTFT", f"{due}ttft_ms"), ("ITL", "itl_ms")] if scenario.streamed else []
    latencies.append(("latency", f"{due}request_latency_ms"))
    headings = ["reqs", "errors", "req/s", *(["tok/s"] * scenario.streamed)]
    headings += [f"{label}\n{rank}" for label, _ in latencies for rank in ("p50", "p95")]
    headings += ["good\nreq/s"] * bool(scenario.slos)
    table.add_column("stage", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in report.stages:
        figures = stage.figures
        label = f"{stage.label} (knee)" if stage.stage == report.knee else stage.label
        row = [escape(label), str(figures.requests), percent(figures.error_rate), short(figures.request_throughput)]
        if scenario.streamed:
            row.append(short(figures.output_token_throughput))
        for _, name in latencies:
            found: Statistics | None = getattr(figures, name)
            row += [short(found.p50), short(found.p95)] if found else [short(None)] * 2
        if scenario.slos:
            row.append(short(figures.goodput))
        table.add_row(*row)
    return table


def remarks(report: Report) -> Iterable[str]:
    """Errors by kind and warnings, one line each."""
    for stage in report.stages:
        for kind, number in stage.figures.errors.items():
            yield f"{stage.label}: {number} x {kind}, for example: {stage.error_examples[kind]}"
    yield from report_remarks.remarks(report)
