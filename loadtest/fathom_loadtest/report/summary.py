"""Whether a run kept its objectives."""

from dataclasses import asdict

from fathom_loadtest.gate.file import Objectives
from fathom_loadtest.gate.judgement import Judgement, judge, objectives_of
from fathom_loadtest.gate.objective import ATTAINMENT, Objective
from fathom_loadtest.gate.verdict import GateVerdict
from fathom_loadtest.report.document import Report
from fathom_loadtest.scenario import Sweep


def objectives_of_report(report: Report) -> tuple[Objective, ...]:
    """Give the objectives that follow from the scenario's SLOs; none where it has none."""
    load = report.scenario.load
    attainment = load.attainment if isinstance(load, Sweep) else ATTAINMENT
    return objectives_of(report.scenario.slos, attainment, open_loop=any(s.rate is not None for s in report.stages))


def judgements_of(report: Report) -> tuple[Judgement, ...]:
    """Hold every stage against the objectives that follow from the scenario's SLOs."""
    return judge(((stage.label, asdict(stage.figures)) for stage in report.stages), objectives_of_report(report))


def gate_verdict(report: Report, objectives: Objectives) -> GateVerdict:
    """Hold a run against objectives, or against its scenario's SLOs where there are none; of a sweep, its knee."""
    sweep = isinstance(report.scenario.load, Sweep)
    stages = [
        (stage.label, asdict(stage.figures)) for stage in report.stages if not sweep or stage.stage == report.knee
    ]
    if not stages:
        return GateVerdict.without_knee(report.ending)
    every = objectives.every if objectives else objectives_of_report(report)
    return GateVerdict.of(stages, every, objectives.of_stage, report.ending)
