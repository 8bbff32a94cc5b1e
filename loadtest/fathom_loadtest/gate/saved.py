"""A saved report held against objectives."""

from collections.abc import Collection, Sequence

from fathom_loadtest.errors import ReportFileError, ScenarioError
from fathom_loadtest.gate.file import Objectives
from fathom_loadtest.gate.judgement import objectives_of
from fathom_loadtest.gate.objective import ATTAINMENT
from fathom_loadtest.gate.verdict import GateVerdict
from fathom_loadtest.report.saved import SavedReport, SavedStage


def judge_saved(
    report: SavedReport, objectives: Objectives, only: Sequence[str] = (), attainment: float | None = None
) -> GateVerdict:
    """Hold a report's stages (``only`` those, by label; all where empty) against objectives.

    Of a sweep, which goes on until an SLO breaks, the stage with the highest load that kept them is judged, unless
    stages are named. Without objectives the run's own SLOs count, which ``attainment`` of its requests must meet (by
    default what the sweep went by, else 0.95). Raises ScenarioError where there is nothing to judge by, or a stage is
    named that the report does not have, and ReportFileError for a report without a stage.
    """
    labels = [stage.label for stage in report.stages]
    if not labels:
        raise ReportFileError(f"{report.path}: has no stage, so there is nothing to judge; run the test again")
    _check_known(only, labels, "--stage")
    _check_known(objectives.of_stage, labels, "the file's stages")
    every = objectives.every
    if not objectives:
        every = objectives_of(report.slos, attainment or _attainment(report), open_loop=report.open_loop)
        if not every:
            raise ScenarioError("nothing to judge by: the run has no SLOs; give objectives with --slo or --slo-file")
    stages = [stage for stage in report.stages if _judged(stage, report, only)]
    if not stages:
        return GateVerdict.without_knee(report.ending)
    pairs = [(stage.label, stage.figures) for stage in stages]
    return GateVerdict.of(pairs, every, objectives.of_stage, report.ending)


def _judged(stage: SavedStage, report: SavedReport, only: Sequence[str]) -> bool:
    if only:
        return stage.label in only
    return not report.sweep or stage.stage == report.knee


def _attainment(report: SavedReport) -> float:
    return float(report.settings.get("load.attainment", ATTAINMENT))


def _check_known(names: Collection[str], labels: Sequence[str], where: str) -> None:
    for name in names:
        if name not in labels:
            raise ScenarioError(f"{where}: {name!r} is no stage of the report; it has {', '.join(labels)}")
