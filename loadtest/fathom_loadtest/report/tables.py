"""Tables with a column for each stage: what is one number a stage, and what the server counted in each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from fathom_loadtest.metrics import StageFigures
from fathom_loadtest.report.document import Report, StageReport
from fathom_loadtest.report.numbers import percent, short
from fathom_loadtest.report.server_rows import server_rows

MOST_COLUMNS: Final = 5
"""Stages side by side in one table; further ones get a table of their own, so that paper is wide enough."""

Read = Callable[[StageFigures], str]
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class StageTable:
    """A table: its name, its columns' labels, and its rows: (label, formula or nothing, a value for each column)."""

    name: str
    labels: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]


def totals_tables(report: Report) -> Iterator[StageTable]:
    """Give what is one number a stage, for the whole of it and for each task of a mix."""
    tasks = list(dict.fromkeys(task for stage in report.stages for task in stage.tasks))
    for task in ("", *tasks):
        stages = [stage for stage in report.stages if not task or task in stage.tasks]
        for part in _parts(stages):
            figures = [stage.tasks[task] if task else stage.figures for stage in part]
            rows = [(label, formula, tuple(map(read, figures))) for label, formula, read in _totals(report)]
            if not task:
                rows += _of_stages(part)
            name = f"Task {task}" if task else "Whole stages"
            yield StageTable(name, tuple(stage.label for stage in part), tuple(rows))


def server_tables(report: Report) -> Iterator[StageTable]:
    """Give what the server counted: each engine, each model, its processes, each GPU."""
    told = [stage for stage in report.stages if stage.server is not None]
    found = [{name: dict(rows) for name, rows in server_rows(stage.server)} for stage in told if stage.server]
    for name in dict.fromkeys(name for tables in found for name in tables):
        having = [(stage, tables[name]) for stage, tables in zip(told, found, strict=True) if name in tables]
        for part in _parts(having):
            labels = dict.fromkeys(label for _, rows in part for label in rows)
            rows = tuple((label, "", tuple(rows.get(label, "–") for _, rows in part)) for label in labels)
            yield StageTable(name, tuple(stage.label for stage, _ in part), rows)


def _parts(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for first in range(0, len(items), MOST_COLUMNS):
        yield items[first : first + MOST_COLUMNS]


def _totals(report: Report) -> Iterator[tuple[str, str, Read]]:
    for figure in report.shown_totals:
        write = percent if figure.unit == "share" else short
        unit = "" if figure.unit == "share" else f", {figure.unit}"
        yield f"{figure.label}{unit}", figure.formula, _reader(figure.name, write)
    if any(stage.figures.cancelled for stage in report.stages):
        reason = "requests that the scenario itself left before their end; they have no figures"
        yield "Cancelled", reason, lambda figures: str(figures.cancelled)
    sums = "sums over the requests that succeeded"
    yield "Tokens in", sums, lambda figures: f"{figures.total_input_tokens:,}"
    if report.scenario.streamed:
        yield "Tokens out", sums, lambda figures: f"{figures.total_output_tokens:,}"
    yield "Duration, s", "last response − first request", lambda figures: short(figures.duration_s)


def _reader(name: str, write: Callable[[float | None], str]) -> Read:
    return lambda figures: write(getattr(figures, name))


def _of_stages(stages: Sequence[StageReport]) -> list[tuple[str, str, tuple[str, ...]]]:
    generators = [stage.generator for stage in stages]
    rows = [
        (
            "Generator's CPU share",
            "CPU time of its event loop's thread / wall time",
            tuple(percent(generator.loop_cpu_share) for generator in generators),
        ),
        (
            "Generator's lag, ms",
            "how late its event loop woke a timer, p95",
            tuple(short(generator.lag_ms.p95 if generator.lag_ms else None) for generator in generators),
        ),
    ]
    if any(stage.rate is not None for stage in stages):
        reason = "requests that were due while as many as allowed were under way"
        rows.insert(0, ("Sent late", reason, tuple(str(stage.late) for stage in stages)))
    return rows
