"""The report as one page that needs nothing but itself."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom_loadtest.gate.judgement import Judgement
from fathom_loadtest.gate.objective import Objective
from fathom_loadtest.metrics import DISTRIBUTIONS, PERCENTILE_METHOD, STATISTICS
from fathom_loadtest.report.document import Report
from fathom_loadtest.report.numbers import percent, short, signed_percent
from fathom_loadtest.report.plots import PlotSection, plot_sections
from fathom_loadtest.report.remarks import remarks
from fathom_loadtest.report.settings import flat, written
from fathom_loadtest.report.summary import judgements_of
from fathom_loadtest.report.tables import server_tables, totals_tables

if TYPE_CHECKING:
    from jinja2 import Environment


def save_html(report: Report, path: Path) -> None:
    """Write the page."""
    sections, judgements = plot_sections(report), judgements_of(report)
    page = (
        templates()
        .get_template("report.html")
        .render(
            report=report,
            started=readable_time(report.started_at),
            judgements=judgements,
            objectives=list(dict.fromkeys(judgement.objective for judgement in judgements)),
            knee_label=next((stage.label for stage in report.stages if stage.stage == report.knee), None),
            plot_sections=sections,
            sections=_anchors(report, sections),
            statistics=STATISTICS,
            percentile_method=PERCENTILE_METHOD,
            scenario_rows=scenario_rows(report),
            environment_rows=environment_rows(report),
        )
    )
    path.write_text(page, encoding="utf-8")


def templates() -> "Environment":
    """Give the pages' templates; whatever they insert is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fathom_loadtest.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        short=short,
        percent=percent,
        signed=signed_percent,
        bound=bound,
        reached=reached,
        remarks=lambda report: list(remarks(report)),
        server_tables=server_tables,
        totals_tables=totals_tables,
        names_of=lambda figures: [figure.name for figure in DISTRIBUTIONS if getattr(figures, figure.name)],
        figure_label=_figure_label,
    )
    return environment


def readable_time(started_at: str) -> str:
    """Write an ISO time in UTC for a reader."""
    return datetime.fromisoformat(started_at).strftime("%d %B %Y, %H:%M UTC").lstrip("0")


def bound(objective: Objective) -> str:
    """Write an objective's limit with its unit."""
    sign = {"<=": "≤", ">=": "≥"}[objective.relation]
    limit = percent(objective.limit) if objective.unit == "share" else f"{objective.limit:g} {objective.unit}"
    return f"{sign} {limit}"


def reached(judgement: Judgement) -> str:
    """Write what a stage reached, with its unit."""
    return "–" if judgement.value is None else _in_unit(judgement.objective, judgement.value)


def _in_unit(objective: Objective, value: float) -> str:
    return percent(value) if objective.unit == "share" else f"{short(value)} {objective.unit}"


def scenario_rows(report: Report) -> dict[str, str]:
    """Every setting of the scenario, named by its path, and the command line."""
    return {name: written(value) for name, value in flat(report.scenario.to_json()).items()} | {
        "command": report.command
    }


def environment_rows(report: Report) -> dict[str, str]:
    """Where the run took place, and what the server said of itself."""
    environment = report.environment
    memory = "" if environment.memory_bytes is None else f", {environment.memory_bytes / 2**30:.1f} GiB"
    return {
        **report.target,
        "generator's machine": f"{environment.cpu or 'unknown CPU'}, {environment.cores} cores{memory}",
        "generator's system": environment.system,
        "commit": environment.git_commit or "not in git",
        **environment.versions,
    }


def _anchors(report: Report, sections: list[PlotSection]) -> dict[str, str]:
    """Name the page's sections by the anchors of their headings."""
    found = {"summary": "Summary"}
    found |= {f"plots-{place}": section.heading for place, section in enumerate(sections, start=1)}
    if any(stage.server for stage in report.stages):
        found["server"] = "The server's side"
    if report.stages:
        found["figures"] = "Every figure"
    if any(stage.figures.failed for stage in report.stages):
        found["errors"] = "Errors"
    return found | {"scenario": "Scenario", "environment": "Environment", "method": "How it was measured"}


def _figure_label(name: Any) -> str:
    return next((figure.label for figure in DISTRIBUTIONS if figure.name == name), str(name))
