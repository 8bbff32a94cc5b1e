"""A comparison in the terminal."""

from collections.abc import Iterator
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from fathom_loadtest.compare.comparison import Comparison, StageComparison, Verdict
from fathom_loadtest.compare.text import change_text, interval_text, value_text

_STYLES: Final[dict[Verdict, str]] = {"worse": "bold red", "better": "green", "no difference": "dim", "unclear": "dim"}


def comparison_tables(comparison: Comparison) -> Iterator[Table]:
    """Give one table a stage, 80 columns wide."""
    for stage in comparison.stages:
        yield _table(stage)


def _table(stage: StageComparison) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, title=escape(stage.label), title_justify="left")
    table.add_column("figure", no_wrap=True)
    for heading in ("A", "B", "change", "interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for difference in stage.differences:
        values = [value_text(difference, value) for value in (difference.a, difference.b)]
        table.add_row(
            difference.measure.name,
            *values,
            change_text(difference),
            interval_text(difference),
            difference.verdict,
            style=_STYLES[difference.verdict],
        )
    return table
