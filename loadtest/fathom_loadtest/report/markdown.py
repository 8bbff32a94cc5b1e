"""The report in Markdown: what a pull request's comment or a job's summary needs of it."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from fathom_loadtest.report.document import Report
from fathom_loadtest.report.html import bound, reached, readable_time
from fathom_loadtest.report.numbers import percent, short, signed_percent
from fathom_loadtest.report.remarks import remarks
from fathom_loadtest.report.summary import judgements_of

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>|#~!&$])")


def cell(text: str) -> str:
    """Write foreign text as Markdown that shows it and does nothing else: one line, no markup, no table's end."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Write a table's lines; its cells are Markdown. The first column is left, the others right."""
    lines = [f"| {' | '.join(headings)} |", f"|{'|'.join(['---', *['---:'] * (len(headings) - 1)])}|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def to_markdown(report: Report) -> str:
    """Write objectives, stages, errors and remarks; the other forms of the report hold the rest."""
    scenario = report.scenario
    lines = [
        f"### Load test of {cell(scenario.model)}",
        "",
        f"{readable_time(report.started_at)}, {cell(scenario.task)} at {cell(scenario.url)}",
    ]
    if report.ending != "completed":
        lines += ["", f"**The run ended early: {cell(report.ending_message)}.**"]
    judgements = judgements_of(report)
    if judgements:
        rows = [
            (
                cell(one.stage), cell(one.objective.label), bound(one.objective), reached(one),
                signed_percent(one.margin), "kept" if one.kept else "**broken**",
            )
            for one in judgements
        ]  # fmt: skip
        lines += ["", *table(("stage", "objective", "limit", "reached", "margin", "verdict"), rows)]
    lines += ["", *_stages(report)]
    if report.knee is not None:
        knee = next(stage.label for stage in report.stages if stage.stage == report.knee)
        lines += ["", f"The highest load that kept the SLOs: {cell(knee)}."]
    errors = [
        (cell(stage.label), cell(kind), str(number), cell(stage.error_examples.get(kind, "")))
        for stage in report.stages
        for kind, number in stage.figures.errors.items()
    ]
    if errors:
        lines += ["", *table(("stage", "error", "requests", "an example"), errors)]
    lines += ["", *(f"- {cell(remark)}" for remark in remarks(report))]
    return "\n".join(lines).rstrip() + "\n"


def _stages(report: Report) -> list[str]:
    totals = [figure for figure in report.shown_totals if figure.name != "error_rate"]
    spread = [figure for figure in report.shown_distributions if figure.unit == "ms"]
    headings = ["stage", "requests", "errors", *(f"{figure.label}, {figure.unit}" for figure in totals)]
    headings += [f"{figure.label} p50 / p95 / p99, ms" for figure in spread]
    rows = []
    for stage in report.stages:
        figures = stage.figures
        row = [cell(stage.label), str(figures.requests), percent(figures.error_rate)]
        row += [short(getattr(figures, figure.name)) for figure in totals]
        for figure in spread:
            found = getattr(figures, figure.name)
            row.append(" / ".join(short(getattr(found, rank) if found else None) for rank in ("p50", "p95", "p99")))
        rows.append(row)
    return table(headings, rows) if rows else ["No stage was measured."]


def save_markdown(report: Report, path: Path) -> None:
    """Write ``to_markdown``."""
    path.write_text(to_markdown(report), encoding="utf-8")
