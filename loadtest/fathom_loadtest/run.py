"""Runs a scenario: warm-up and measurement of each stage."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from fathom_loadtest.crew import Crew
from fathom_loadtest.load.plan import Stage, plan
from fathom_loadtest.metrics import StageTally
from fathom_loadtest.outcome import Run, StageRun
from fathom_loadtest.phase import Phase
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.scenario import Sweep
from fathom_loadtest.server_side.document import ServerSide
from fathom_loadtest.server_side.reconcile import reconciled
from fathom_loadtest.server_side.watch import ServerSideWatch
from fathom_loadtest.target import ServerWatch
from fathom_loadtest.workload import Workload

_WARMUP_USERS: Final = 8
"""Users of an open loop's warm-up that is counted in requests."""


class LoadTest:
    """Runs a workload's stages one after the other, by the crew.

    Every request of a stage is written to the file ``records`` as it ends. What the server counts in the stage is asked
    of ``server_side`` where it is given.
    """

    def __init__(
        self, workload: Workload, crew: Crew, records: Path, server_side: ServerSideWatch | None = None
    ) -> None:
        self._workload = workload
        self._scenario = workload.scenario
        self._crew = crew
        self._records = records
        self._server_side = server_side

    def interrupt(self) -> None:
        """End the run now; requests under way are cancelled."""
        self._crew.interrupt()

    def run(self) -> Run:
        """Run every stage; ends early, with what there is, when interrupted or when server or workers are lost."""
        recorder = Recorder(self._records, self._scenario.slos)
        run, watch = Run(self._scenario, recorder=recorder), ServerWatch()
        stages = plan(self._scenario.load)
        stage = next(stages, None)
        while stage is not None:
            self._warm_up(stage, watch)
            if self._ended(run, watch):
                break
            run.stages.append(self._measure(stage, recorder, watch))
            if self._ended(run, watch):
                break
            try:
                stage = stages.send(run.stages[-1].attainment)
            except StopIteration as end:
                stage, run.knee = None, end.value
        return run

    def _warm_up(self, stage: Stage, watch: ServerWatch) -> None:
        """Run the stage's load for some seconds, or some users' requests, that nobody counts."""
        seconds, requests = self._scenario.warmup_s, self._scenario.warmup_requests
        if seconds is not None:
            warming = replace(stage, duration_s=seconds, requests=None)
        elif requests:
            users = stage.users if stage.rate is None and self._workload.trace is None else _WARMUP_USERS
            warming = Stage(stage.number, users, None, None, users * requests)
        else:
            return
        name, recorder = f"warm-up {stage.number + 1}", Recorder()
        workload = replace(self._workload, trace=None) if seconds is None else self._workload
        self._crew.run_phase(Phase(name, warming, workload, recorder, warming.users), watch)

    def _measure(self, stage: Stage, recorder: Recorder, watch: ServerWatch) -> StageRun:
        phase = Phase(f"stage {stage.number + 1}", stage, self._workload, recorder, stage.users)
        recorded = len(recorder)
        if self._server_side is not None:
            self._server_side.open()
        generator = self._crew.run_phase(phase, watch)
        closed_ns = time.perf_counter_ns()
        return StageRun(
            stage=stage.number,
            users=stage.users,
            opened_ns=phase.opened_ns or closed_ns,
            closed_ns=closed_ns,
            unfinished=phase.started - (len(recorder) - recorded),
            generator=generator,
            name=self._name(stage),
            rate=self._mean_rate(stage),
            late=phase.late,
            attainment=self._attainment(stage, recorder),
            server=self._seen_by_server(phase.opened_ns or closed_ns, stage, recorder),
        )

    def _seen_by_server(self, opened_ns: int, stage: Stage, recorder: Recorder) -> ServerSide | None:
        """What the server counted, beside what the callers of each model saw."""
        if self._server_side is None:
            return None
        seen: dict[str, StageTally] = {}
        tallies = recorder.tallies_by_task(stage.number)
        for task in self._scenario.tasks:
            if task.label in tallies:
                seen.setdefault(task.model, StageTally()).merge(tallies[task.label])
        figures = {model: tally.figures() for model, tally in seen.items()}
        return reconciled(self._server_side.close(opened_ns), figures)

    def _name(self, stage: Stage) -> str:
        """Say of a stage what its rate or users do not."""
        if self._workload.trace is not None:
            return "trace"
        return "" if stage.ramp_from is None else f"ramp {stage.ramp_from:g} to {stage.rate:g}"

    def _mean_rate(self, stage: Stage) -> float | None:
        if self._workload.trace is not None:
            return self._workload.trace.rate
        if stage.rate is None or stage.ramp_from is None:
            return stage.rate
        return (stage.ramp_from + stage.rate) / 2

    def _attainment(self, stage: Stage, recorder: Recorder) -> float | None:
        """The share of a sweep's requests that met all SLOs, without those that the scenario itself cancelled."""
        if not isinstance(self._scenario.load, Sweep):
            return None
        tally = recorder.tally(stage.number)
        counted = tally.requests - tally.cancelled
        return tally.good / counted if counted else 0.0

    def _ended(self, run: Run, watch: ServerWatch) -> bool:
        if self._crew.interrupted.is_set():
            run.ending = "interrupted"
            run.ending_message = "interrupted; the report holds the requests that had ended by then"
        elif watch.lost is not None:
            run.ending = "server_lost"
            run.ending_message = f"the server was lost during the run: {watch.lost}"
        elif self._crew.lost_worker is not None:
            run.ending = "worker_lost"
            run.ending_message = f"{self._crew.lost_worker} was lost during the run; what it had sent last is missing"
        return run.ending != "completed"
