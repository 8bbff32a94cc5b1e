"""How a comparison's numbers are written, whatever the form."""

from fathom_loadtest.compare.comparison import Comparison, Difference
from fathom_loadtest.report.numbers import percent, short, signed_percent


def value_text(difference: Difference, value: float | None) -> str:
    """Write the value in one of the runs."""
    return percent(value) if difference.measure.absolute else short(value)


def change_text(difference: Difference) -> str:
    """Write B against A: per cent of A, or points of per cent for a share."""
    return _signed(difference, difference.change)


def interval_text(difference: Difference) -> str:
    """Write the change's interval."""
    if difference.low is None or difference.high is None:
        return "–"
    return f"{_signed(difference, difference.low)} to {_signed(difference, difference.high)}"


def headline(comparison: Comparison) -> str:
    """Say in one sentence what the comparison found."""
    counts = {verdict: comparison.count(verdict) for verdict in ("worse", "better", "no difference", "unclear")}
    found = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
    if comparison.verdict == "worse":
        return f"B is worse than A ({found})"
    if comparison.verdict == "better":
        return f"B is better than A, and worse in nothing ({found})"
    if comparison.verdict == "unclear":
        return f"No difference could be shown, and none excluded everywhere ({found})"
    return f"No difference ({found})"


def method_text(comparison: Comparison) -> str:
    """Say how the intervals were made and when a difference counts."""
    tolerance = comparison.tolerance
    return (
        f"Change is of B against A. Intervals: {percent(tolerance.confidence)} confidence, from slices of the stage's "
        f"time drawn with replacement, seed {comparison.seed}. A figure is better or worse where its interval leaves "
        f"out zero and the change is at least {percent(tolerance.min_effect)} (of a share: one percentage point, pp); "
        "there is no difference where the interval stays within that; else it is unclear. The intervals come from one "
        "run of each: how much two runs of the same thing differ they do not know."
    )


def remarks(comparison: Comparison) -> list[str]:
    """Name what a reader must know: in what else the runs differ, which stages were left out, which are too short."""
    found = [f"{mismatch.kind}: {mismatch}" for mismatch in comparison.mismatches]
    found += [f"not compared: {stage}" for stage in comparison.unpaired]
    if any(mismatch.kind == "objectives" for mismatch in comparison.mismatches):
        found.append("goodput is not compared, since it was judged by different objectives")
    found += [
        f"{stage.label}: intervals are rough, a run is too short or too uneven for more than {min(stage.slices)} slices"
        for stage in comparison.stages
        if stage.rough
    ]
    return found


def _signed(difference: Difference, change: float | None) -> str:
    if change is not None and difference.measure.absolute:
        return signed_percent(change).replace("%", "pp")
    return signed_percent(change)
