"""What a reader must know before trusting a report: warnings, and what was left out."""

from collections.abc import Iterator

from fathom_loadtest.report.document import Report


def remarks(report: Report) -> Iterator[str]:
    """Give one sentence for each, without a full stop, behind its stage's label."""
    for stage in report.stages:
        if stage.unfinished:
            number = f"{stage.unfinished} request{' was' if stage.unfinished == 1 else 's were'}"
            yield f"{stage.label}: {number} under way when the stage was cut short; no figure counts them"
        if stage.late:
            number = f"{stage.late} request{' was' if stage.late == 1 else 's were'}"
            yield f"{stage.label}: {number} sent late, since as many as allowed ({stage.users}) were under way"
        for warning in stage.warnings:
            yield f"{stage.label}: {warning}"
