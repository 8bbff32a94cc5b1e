"""A comparison in Markdown, for a pull request's comment."""

from fathom_loadtest.compare.comparison import Comparison
from fathom_loadtest.compare.text import change_text, headline, interval_text, method_text, remarks, value_text
from fathom_loadtest.report.markdown import cell, table


def to_markdown(comparison: Comparison) -> str:
    """Write the whole comparison."""
    lines = [f"**{headline(comparison)}**", ""]
    runs = (("A", comparison.a), ("B", comparison.b))
    lines += [f"- {name}: {cell(str(run.path))}, {run.started_at}" for name, run in runs]
    for stage in comparison.stages:
        rows = [
            (
                f"`{difference.measure.name}`",
                value_text(difference, difference.a),
                value_text(difference, difference.b),
                change_text(difference),
                interval_text(difference),
                f"**{difference.verdict}**" if difference.verdict in ("worse", "better") else difference.verdict,
            )
            for difference in stage.differences
        ]
        lines += ["", f"#### {cell(stage.label)}", ""]
        lines += table(("figure", "A", "B", "change", "interval", "verdict"), rows)
    found = remarks(comparison)
    if found:
        lines += ["", *(f"- {cell(remark)}" for remark in found)]
    return "\n".join([*lines, "", method_text(comparison), ""])
