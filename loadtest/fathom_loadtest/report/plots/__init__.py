"""The report's plots, section by section."""

from dataclasses import dataclass

from fathom_loadtest.report.document import Report
from fathom_loadtest.report.plots.canvas import Plot
from fathom_loadtest.report.plots.distributions import distributions
from fathom_loadtest.report.plots.load_curves import load_curves
from fathom_loadtest.report.plots.server import server_plots
from fathom_loadtest.report.plots.time_series import over_time

__all__ = ["Plot", "PlotSection", "plot_sections"]


@dataclass(frozen=True, slots=True)
class PlotSection:
    """Plots under one heading; ``wide`` ones take the page's whole width."""

    heading: str
    wide: bool
    plots: tuple[Plot, ...]


def plot_sections(report: Report) -> list[PlotSection]:
    """Draw every plot that this report's figures allow."""
    answered = [stage for stage in report.stages if stage.figures.succeeded]
    measured = [stage for stage in report.stages if stage.figures.requests]
    sections = [
        PlotSection("Load, throughput and latency", False, tuple(load_curves(report, answered))),
        PlotSection("Distributions", False, tuple(distributions(report, answered))),
        PlotSection("Over time", True, tuple(over_time(report, measured)) if measured else ()),
        PlotSection("The server over time", False, tuple(server_plots(measured))),
    ]
    return [section for section in sections if section.plots]
