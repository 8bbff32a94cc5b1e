"""A run from Locust's own web UI: whoever sits there chooses the number of users, starts and stops."""

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.event import Event
from locust.env import Environment
from locust.stats import stats_history

from fathom_loadtest.errors import OutputError
from fathom_loadtest.generator import GeneratorMonitor
from fathom_loadtest.load.plan import Stage
from fathom_loadtest.outcome import Run, StageRun
from fathom_loadtest.phase import Phase
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.target import Connections, ServerWatch
from fathom_loadtest.users.load_user import LoadUser
from fathom_loadtest.workload import Workload

_TICK_S: Final = 0.1
_CONNECTIONS: Final = 64


class WebTest:
    """Serves Locust's web UI until it is interrupted; each test that is started there is a stage.

    The scenario gives the server and the requests. Its load is not used: in the UI a number of users is chosen, and how
    fast they begin. Every request is written to the file ``records`` as it ends.
    """

    def __init__(
        self, workload: Workload, address: tuple[str, int], on_tick: Callable[[Phase], None], records: Path
    ) -> None:
        self._workload = workload
        self._host, self._port = address
        self._on_tick = on_tick
        self._run = Run(workload.scenario, recorder=Recorder(records, workload.scenario.slos))
        self._interrupted = Event()
        self._crash: BaseException | None = None
        self._phase: Phase | None = None
        self._monitor: GeneratorMonitor | None = None
        self._recorded = self._most_users = 0

    @property
    def url(self) -> str:
        """Where the UI is."""
        return f"http://{self._host}:{self._port}"

    def interrupt(self) -> None:
        """End the session; requests under way are cancelled."""
        self._interrupted.set()

    def run(self) -> Run:
        """Serve until interrupted; gives the stages that were run. Raises OutputError where the port is taken."""
        self._check_port()
        connections = Connections(self._workload.scenario.target, _CONNECTIONS)
        user_class = type("ScenarioUser", (LoadUser,), {"connections": connections})
        environment = Environment(user_classes=[user_class], catch_exceptions=False, host=self._workload.scenario.url)
        environment.events.user_error.add_listener(self._note_crash)
        environment.events.test_start.add_listener(lambda **_: self._open(user_class))
        environment.events.test_stop.add_listener(lambda **_: self._close())
        runner = environment.create_local_runner()
        del sys.argv[1:]  # the UI takes them for Locust's own
        web_ui = environment.create_web_ui(self._host, self._port)
        history = gevent.spawn(stats_history, runner)
        while not self._interrupted.wait(_TICK_S) and self._crash is None:
            if self._phase is not None:
                self._phase.users = runner.user_count
                self._most_users = max(self._most_users, runner.user_count)
                self._on_tick(self._phase)
                self._crash = self._crash or self._phase.spare_time.failure
        runner.quit()
        self._close()
        history.kill()
        web_ui.stop()
        connections.close()
        if self._crash is not None:
            raise self._crash
        return self._run

    def _check_port(self) -> None:
        """Find out before Locust does, which would say so in a traceback."""
        try:
            socket.create_server((self._host, self._port)).close()
        except OSError as error:
            raise OutputError(
                f"--web-ui {self._host}:{self._port}: cannot be listened on ({error.strerror}); name another port"
            ) from error

    def _open(self, user_class: Any) -> None:
        """Make a phase for the test that starts."""
        number = len(self._run.stages)
        stage = Stage(number, 0, None, None, None)
        recorder = self._run.recorder
        user_class.watch = ServerWatch()
        user_class.phase = self._phase = Phase(f"stage {number + 1}", stage, self._workload, recorder, users=0)
        self._phase.open()
        self._recorded, self._most_users = len(recorder), 0
        self._monitor = GeneratorMonitor()

    def _close(self) -> None:
        """Make a stage of the test that stops."""
        if self._phase is None or self._monitor is None:
            return
        phase, self._phase = self._phase, None
        phase.close()
        gevent.sleep(0)
        phase.spare_time.finish()
        self._crash = self._crash or phase.spare_time.failure
        closed_ns = time.perf_counter_ns()
        self._run.stages.append(
            StageRun(
                stage=phase.stage.number,
                users=self._most_users,
                opened_ns=phase.opened_ns or closed_ns,
                closed_ns=closed_ns,
                unfinished=phase.started - (len(phase.recorder) - self._recorded),
                generator=self._monitor.close(),
            )
        )

    def _note_crash(self, user_instance: object, exception: BaseException, tb: object) -> None:
        self._crash = self._crash or exception
