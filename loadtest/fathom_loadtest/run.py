"""Runs a scenario: warm-up and measurement of each stage on Locust's runner."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import gevent
from gevent.event import Event
from locust.env import Environment

from fathom_loadtest.generator import GeneratorMonitor
from fathom_loadtest.load.plan import Stage, plan
from fathom_loadtest.outcome import Run, StageRun
from fathom_loadtest.phase import Phase
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.scenario import Sweep
from fathom_loadtest.target import OPEN_LOOP_CONNECTIONS, Connections, ServerWatch
from fathom_loadtest.users.load_user import LoadUser
from fathom_loadtest.workload import Workload

_TICK_S: Final = 0.1
_GIVE_UP_AFTER_S: Final = 10.0
_WARMUP_USERS: Final = 8
"""Users of an open loop's warm-up that is counted in requests."""


class LoadTest:
    """Runs a workload's stages one after the other; ``on_tick`` is told of the open phase several times a second.

    Every request of a stage is written to the file ``records`` as it ends.
    """

    def __init__(self, workload: Workload, on_tick: Callable[[Phase], None], records: Path) -> None:
        self._workload = workload
        self._scenario = workload.scenario
        self._records = records
        self._on_tick = on_tick
        self._interrupted = Event()
        self._crash: BaseException | None = None

    def interrupt(self) -> None:
        """End the run now; requests under way are cancelled."""
        self._interrupted.set()

    def run(self) -> Run:
        """Run every stage; ends early, with what there is, when interrupted or when the server is lost."""
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
        self._run_phase(Phase(name, warming, workload, recorder, warming.users), watch)

    def _measure(self, stage: Stage, recorder: Recorder, watch: ServerWatch) -> StageRun:
        phase = Phase(f"stage {stage.number + 1}", stage, self._workload, recorder, stage.users)
        recorded = len(recorder)
        monitor = GeneratorMonitor()
        self._run_phase(phase, watch)
        generator = monitor.close()
        closed_ns = time.perf_counter_ns()
        return StageRun(
            stage=stage.number,
            users=stage.users,
            opened_ns=phase.opened_ns or closed_ns,
            closed_ns=closed_ns,
            unfinished=phase.started - (len(recorder) - recorded),
            generator=generator,
            rate=self._mean_rate(stage),
            late=phase.late,
            attainment=self._attainment(stage, recorder),
        )

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
        if self._crash is not None:
            raise self._crash
        if self._interrupted.is_set():
            run.ending = "interrupted"
            run.ending_message = "interrupted; the report holds the requests that had ended by then"
        elif watch.lost is not None:
            run.ending = "server_lost"
            run.ending_message = f"the server was lost during the run: {watch.lost}"
        return run.ending != "completed"

    def _run_phase(self, phase: Phase, watch: ServerWatch) -> None:
        """Let a phase's users run until all are done, or until the run must end."""
        is_open = phase.workload.trace is not None or phase.stage.rate is not None
        connections = Connections(self._scenario.target, OPEN_LOOP_CONNECTIONS if is_open else phase.users)
        user_class = type("PhaseUser", (LoadUser,), {"phase": phase, "watch": watch, "connections": connections})
        environment = Environment(user_classes=[user_class], catch_exceptions=False)
        environment.events.user_error.add_listener(self._note_crash)
        runner = environment.create_local_runner()
        spawned = Event()
        environment.events.spawning_complete.add_listener(lambda user_count: spawned.set())
        runner.start(phase.users, spawn_rate=phase.users)
        stopping_at: float | None = None
        while not (spawned.is_set() and runner.user_count == 0):
            self._crash = self._crash or phase.crash
            if self._interrupted.wait(_TICK_S) or self._crash is not None or phase.overdue:
                break
            if watch.lost is not None:  # what is under way fails by itself, and is counted, before users are stopped
                phase.close()
                stopping_at = stopping_at or time.monotonic() + _GIVE_UP_AFTER_S
                if time.monotonic() > stopping_at:
                    break
            self._on_tick(phase)
        phase.close()
        with gevent.Timeout(_GIVE_UP_AFTER_S, False):
            runner.quit()
        connections.close()
        self._on_tick(phase)

    def _note_crash(self, user_instance: object, exception: BaseException, tb: object) -> None:
        self._crash = self._crash or exception
