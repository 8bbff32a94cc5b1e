"""Every figure of a report as one table of numbers at full precision, for spreadsheets and notebooks."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fathom_loadtest.metrics import DISTRIBUTIONS, STATISTICS, TOTALS, StageFigures
from fathom_loadtest.report.document import Report

COLUMNS: Final = ("stage", "label", "users", "rate", "task", "figure", "statistic", "unit", "value")
"""Of figures.csv. ``task`` is empty for the whole stage, ``statistic`` for a figure that is one number."""

_COUNTS: Final = ("requests", "succeeded", "failed", "cancelled")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def save_csv(report: Report, path: Path) -> None:
    """Write one row a number."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for stage in report.stages:
            rate = "" if stage.rate is None else stage.rate
            for task, figures in {"": stage.figures, **stage.tasks}.items():
                for row in _rows(figures):
                    writer.writerow((stage.stage, _plain(stage.label), stage.users, rate, _plain(task), *row))


def _rows(figures: StageFigures) -> Iterator[tuple[str, str, str, float]]:
    for name in _COUNTS:
        yield name, "", "requests", getattr(figures, name)
    for figure in TOTALS:
        value = getattr(figures, figure.name)
        if value is not None:
            yield figure.name, "", figure.unit, value
    for figure in DISTRIBUTIONS:
        found = getattr(figures, figure.name)
        if found is not None:
            yield figure.name, "count", "values", found.count
            for statistic in STATISTICS:
                yield figure.name, statistic, figure.unit, getattr(found, statistic)


def _plain(text: str) -> str:
    """Keep a spreadsheet from taking a name for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
