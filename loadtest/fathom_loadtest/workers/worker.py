"""A worker: sends its part of each phase's requests, and tells its master what came of them."""

import logging
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.fileobject import FileObject
from gevent.queue import Queue
from locust.env import Environment

from fathom_loadtest import __version__
from fathom_loadtest.crew import LocalCrew
from fathom_loadtest.errors import LoadTestError, WorkerError
from fathom_loadtest.phase import Phase
from fathom_loadtest.target import ServerWatch
from fathom_loadtest.workers import wire
from fathom_loadtest.workers.outgoing import OutgoingRecorder
from fathom_loadtest.workers.secret import WorkerSecret
from fathom_loadtest.workers.sockets import use_as_worker
from fathom_loadtest.workload import Share, Workload

_SEND_EVERY_S: Final = 0.5
_LOOK_EVERY_S: Final = 0.5


@dataclass(slots=True)
class WorkerPhase(Phase):
    """A worker's part of a phase: once its users are connected it waits for the master's word to open.

    ``announce`` tells the master that they are; ``allowed`` gets its answer, the time on its clock in ns, or None for a
    phase that is stopped instead.
    """

    announce: Callable[[], None] = lambda: None
    allowed: "Queue[int | None]" = field(default_factory=Queue)

    def open(self) -> None:
        """Say that the users are connected; let requests start when the master says so."""
        self.announce()
        opened_ns = self.allowed.get()
        if opened_ns is None:
            self.close()
            return
        Phase.open(self)
        if self.opened_ns is not None and isinstance(self.recorder, OutgoingRecorder):
            self.recorder.shift_ns = opened_ns - self.opened_ns


class Worker:
    """One worker from its first word to its last; ``secret`` is the master's, too.

    Raises WorkerError where no master is reached, or it has another secret.
    """

    def __init__(self, host: str, port: int, secret: WorkerSecret | None) -> None:
        logging.getLogger("locust").setLevel(logging.CRITICAL)  # what matters is said in our own words
        self._inbox: Queue[Any] = Queue()
        self._allowed: Queue[int | None] = Queue()
        self._crew: LocalCrew | None = None
        self._workload: Workload | None = None
        self._runner = _reach_master(host, port, secret)
        for kind in (wire.WORKLOAD, wire.PHASE):
            self._runner.register_message(kind, self._receive)
        self._runner.register_message(wire.OPEN, self._on_open)
        self._runner.register_message(wire.STOP, self._on_stop)

    def run(self, *, end_with_input: bool) -> int:
        """Serve the master until it lets go; gives the exit status."""
        ending = gevent.spawn(self._watch_for_the_end, end_with_input=end_with_input)
        name = f"{platform.node()}, process {os.getpid()}"
        self._runner.send_message(wire.HELLO, {"version": __version__, "name": name, "pid": os.getpid()})
        with tempfile.TemporaryDirectory(prefix="fathom-load-") as folder:
            while (message := self._inbox.get()) is not None:
                if message.type == wire.WORKLOAD:
                    self._prepare(message.data, Path(folder))
                elif self._workload is not None:
                    self._run_phase(message.data, self._workload)
        ending.kill()
        return 0

    def _prepare(self, message: Any, folder: Path) -> None:
        try:
            self._workload = wire.read_workload(message, folder)
            error = None
        except LoadTestError as caught:
            error = str(caught)
        self._runner.send_message(wire.PREPARED, {"error": error})

    def _run_phase(self, message: Any, workload: Workload) -> None:
        """Run this worker's part of a phase, and send what was recorded while it runs and at its end."""
        if not message["traced"]:
            workload = Workload(workload.scenario, workload.sources)
        name, recorder = message["name"], OutgoingRecorder(workload.scenario.slos)
        share = Share(message["place"], message["of"])
        phase = WorkerPhase(name, wire.read_stage(message), workload, recorder, message["users"], share)
        phase.announce = lambda: self._runner.send_message(wire.CONNECTED, {"phase": name})
        self._allowed = phase.allowed
        watch, crash = ServerWatch(), None
        self._crew = crew = LocalCrew(lambda _: None)

        def report() -> dict[str, Any]:
            return {"phase": name, "started": phase.started, "late": phase.late, "batch": recorder.take()}

        def keep_reporting() -> None:
            while True:
                gevent.sleep(_SEND_EVERY_S)
                self._runner.send_message(wire.RECORDS, report())

        reporting = gevent.spawn(keep_reporting)
        load = None
        try:
            load = crew.run_phase(phase, watch)
        except Exception as error:
            crash = f"{type(error).__name__}: {error}"
        finally:
            reporting.kill()
            self._crew = None
        busy = None if load is None or crew.monitor is None else wire.load_message(load, crew.monitor.lags_ms)
        closing = {"server_lost": watch.lost, "crash": crash, "load": busy}
        self._runner.send_message(wire.CLOSED, report() | closing)

    def _on_open(self, environment: Environment, msg: Any) -> None:
        self._allowed.put(msg.data["opened_ns"])

    def _on_stop(self, environment: Environment, msg: Any) -> None:
        self._allowed.put(None)
        if self._crew is not None:
            self._crew.interrupt()

    def _receive(self, environment: Environment, msg: Any) -> None:
        self._inbox.put(msg)

    def _watch_for_the_end(self, *, end_with_input: bool) -> None:
        """End when the master says so, is not heard of for a minute, or closes the input it was to keep open."""
        closed = gevent.spawn(FileObject(sys.stdin.fileno(), "rb", close=False).read) if end_with_input else None
        while len(self._runner.greenlet) and not (closed is not None and closed.ready()):
            gevent.sleep(_LOOK_EVERY_S)
        if self._crew is not None:
            self._crew.interrupt()
        self._inbox.put(None)


def _reach_master(host: str, port: int, secret: WorkerSecret | None) -> Any:
    """Give Locust's runner once the master has answered; raises WorkerError."""
    refused = Event()
    use_as_worker(secret, refused.set)

    def reach() -> Any:
        try:
            return Environment(user_classes=[]).create_worker_runner(host, port)
        except Exception as error:  # handed on: gevent would print what a greenlet raises
            return error

    reaching = gevent.spawn(reach)
    gevent.wait([reaching, refused], count=1)
    if not reaching.ready():
        own = "no secret" if secret is None else "another secret, or none"
        raise WorkerError(
            f"the master at {host}:{port} does not take this worker, which has {own}; give both the same --secret-file"
        )
    if isinstance(reaching.value, Exception):
        error = reaching.value
        raise WorkerError(
            f"no master answers at {host}:{port} ({error or type(error).__name__}); start one with "
            "fathom-load run --expect-workers"
        ) from error
    return reaching.value
