"""Runs a scenario: warm-up and measurement of each stage on Locust's runner."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.event import Event
from locust.env import Environment

from fathom_loadtest.generator import GeneratorMonitor
from fathom_loadtest.outcome import Run, StageRun
from fathom_loadtest.phase import Phase
from fathom_loadtest.prompts import PromptSource
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.scenario import Scenario, Task
from fathom_loadtest.target import ServerWatch
from fathom_loadtest.users.base import LoadUser
from fathom_loadtest.users.embed import EmbedUser
from fathom_loadtest.users.generate import ChatUser, GenerateUser

USERS: Final[dict[Task, type[LoadUser]]] = {"generate": GenerateUser, "chat": ChatUser, "embed": EmbedUser}
_TICK_S: Final = 0.1
_GIVE_UP_AFTER_S: Final = 10.0


class LoadTest:
    """Runs a scenario's stages one after the other; ``on_tick`` is told of the open phase several times a second.

    Every request of a stage is written to the file ``records`` as it ends.
    """

    def __init__(
        self, scenario: Scenario, prompts: PromptSource, on_tick: Callable[[Phase], None], records: Path
    ) -> None:
        self._scenario = scenario
        self._records = records
        self._prompts = prompts
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
        for stage, users in enumerate(self._scenario.users):
            warmup_requests = users * self._scenario.warmup_requests
            if warmup_requests:
                warmup = self._phase(f"warm-up {stage + 1}", stage, users, Recorder(), requests=warmup_requests)
                self._run_phase(warmup, watch)
            if not self._ended(run, watch):
                measured = self._phase(
                    f"stage {stage + 1}", stage, users, run.recorder,
                    requests=self._scenario.requests, duration_s=self._scenario.duration_s,
                )  # fmt: skip
                run.stages.append(self._run_stage(measured, watch))
            if self._ended(run, watch):
                break
        return run

    def _phase(self, name: str, stage: int, users: int, recorder: Recorder, **limits: Any) -> Phase:
        return Phase(name, stage, users, self._scenario, self._prompts, recorder, Event(), **limits)

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

    def _run_stage(self, phase: Phase, watch: ServerWatch) -> StageRun:
        recorded = len(phase.recorder)
        monitor = GeneratorMonitor()
        self._run_phase(phase, watch)
        generator = monitor.close()
        closed_ns = time.perf_counter_ns()
        return StageRun(
            stage=phase.stage,
            users=phase.users,
            opened_ns=phase.opened_ns or closed_ns,
            closed_ns=closed_ns,
            unfinished=phase.started - (len(phase.recorder) - recorded),
            generator=generator,
        )

    def _run_phase(self, phase: Phase, watch: ServerWatch) -> None:
        """Let a phase's users run until all are done, or until the run must end."""
        user_class = type("PhaseUser", (USERS[self._scenario.task],), {"phase": phase, "watch": watch})
        environment = Environment(user_classes=[user_class], catch_exceptions=False)
        environment.events.user_error.add_listener(self._note_crash)
        runner = environment.create_local_runner()
        spawned = Event()
        environment.events.spawning_complete.add_listener(lambda user_count: spawned.set())
        runner.start(phase.users, spawn_rate=phase.users)
        stopping_at: float | None = None
        while not (spawned.is_set() and runner.user_count == 0):
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
        self._on_tick(phase)

    def _note_crash(self, user_instance: object, exception: BaseException, tb: object) -> None:
        self._crash = self._crash or exception
