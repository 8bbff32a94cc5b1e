"""Who sends a phase's requests: the users of this process, or of workers."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import gevent
from gevent.event import Event
from locust.env import Environment

from fathom_loadtest.generator import GeneratorLoad, GeneratorMonitor
from fathom_loadtest.phase import Phase
from fathom_loadtest.target import OPEN_LOOP_CONNECTIONS, Connections, ServerWatch
from fathom_loadtest.users.load_user import LoadUser

TICK_S: Final = 0.1
GIVE_UP_AFTER_S: Final = 10.0


class Crew(ABC):
    """Runs phases; ``on_tick`` is told of the open one several times a second.

    ``lost_worker`` says who ended during the run without having been asked to; None while nobody has.
    """

    def __init__(self, on_tick: Callable[[Phase], None]) -> None:
        self.on_tick = on_tick
        self.interrupted = Event()
        self.lost_worker: str | None = None

    def interrupt(self) -> None:
        """End the run now; requests under way are cancelled."""
        self.interrupted.set()

    @abstractmethod
    def run_phase(self, phase: Phase, watch: ServerWatch) -> GeneratorLoad:
        """Let a phase's requests be sent until all have ended, or until the run must end.

        The phase's recorder has every request that ended, and ``watch`` knows if the server was lost. Raises what a
        user raised that is no answer to a request.
        """


class LocalCrew(Crew):
    """The users of this process, on Locust's own runner; ``monitor`` watches the process in the latest phase."""

    def __init__(self, on_tick: Callable[[Phase], None]) -> None:
        super().__init__(on_tick)
        self.monitor: GeneratorMonitor | None = None
        self._crash: BaseException | None = None

    def run_phase(self, phase: Phase, watch: ServerWatch) -> GeneratorLoad:
        """Run a phase here."""
        self.monitor = monitor = GeneratorMonitor()
        is_open = phase.workload.trace is not None or phase.stage.rate is not None
        connections = Connections(phase.workload.scenario.target, OPEN_LOOP_CONNECTIONS if is_open else phase.users)
        user_class = type("PhaseUser", (LoadUser,), {"phase": phase, "watch": watch, "connections": connections})
        environment = Environment(user_classes=[user_class], catch_exceptions=False)
        environment.events.user_error.add_listener(self._note_crash)
        runner = environment.create_local_runner()
        spawned = Event()
        environment.events.spawning_complete.add_listener(lambda user_count: spawned.set())
        runner.start(phase.users, spawn_rate=phase.users)
        stopping_at: float | None = None
        while not (spawned.is_set() and runner.user_count == 0):
            self._crash = self._crash or phase.crash or phase.spare_time.failure
            if self.interrupted.wait(TICK_S) or self._crash is not None or phase.overdue:
                break
            if watch.lost is not None:  # what is under way fails by itself, and is counted, before users are stopped
                phase.close()
                stopping_at = stopping_at or time.monotonic() + GIVE_UP_AFTER_S
                if time.monotonic() > stopping_at:
                    break
            self.on_tick(phase)
        phase.close()
        with gevent.Timeout(GIVE_UP_AFTER_S, False):
            runner.quit()
        connections.close()
        phase.spare_time.finish()
        self.on_tick(phase)
        load = monitor.close()
        self._crash = self._crash or phase.spare_time.failure
        if self._crash is not None:
            raise self._crash
        return load

    def _note_crash(self, user_instance: object, exception: BaseException, tb: object) -> None:
        self._crash = self._crash or exception
