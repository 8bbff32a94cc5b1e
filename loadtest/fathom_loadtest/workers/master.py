"""The master: leads workers through each phase, and gathers what they recorded."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

import gevent
from gevent.queue import Empty, Queue
from locust.env import Environment

from fathom_loadtest import __version__
from fathom_loadtest.crew import GIVE_UP_AFTER_S, TICK_S, Crew
from fathom_loadtest.errors import WorkerError
from fathom_loadtest.generator import GeneratorLoad
from fathom_loadtest.phase import Phase
from fathom_loadtest.target import ServerWatch
from fathom_loadtest.workers import wire
from fathom_loadtest.workers.secret import VARIABLE, WorkerSecret
from fathom_loadtest.workers.sockets import use_as_master
from fathom_loadtest.workload import Workload

GATHER_WITHIN_S: Final = 300.0
_END_WITHIN_S: Final = 10.0
_CLOSE_WITHIN_S: Final = 2 * GIVE_UP_AFTER_S + 5
"""A worker that was told to stop cancels what is under way, and hangs up, in this time."""
_MISSING: Final = "missing"


@dataclass(slots=True)
class _Member:
    """A worker and how far it is. ``process`` is there where the master started it."""

    number: int
    identity: str
    name: str
    process: "subprocess.Popen[bytes] | None" = None
    is_prepared: bool = False
    is_connected: bool = False
    started: int = 0
    late: int = 0
    closed: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"worker {self.number + 1} ({self.name})"

    def begin(self) -> None:
        """Forget the phase before."""
        self.is_connected, self.started, self.late, self.closed = False, 0, 0, None


class WorkerCrew(Crew):
    """Workers that send a phase's requests, each its part; a context manager that lets them go.

    The parts do not overlap and are those of the same sequence that one process would send. A worker that ends, or
    whose heartbeat stays out for three seconds, ends the run.
    """

    def __init__(self, on_tick: Callable[[Phase], None], host: str, port: int, secret: WorkerSecret | None) -> None:
        """Listen for workers that have the ``secret``; port 0 takes any.

        Raises WorkerError where the address cannot be listened on.
        """
        super().__init__(on_tick)
        self._secret = secret
        self._members: list[_Member] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._inbox: Queue[Any] = Queue()
        self._environment = Environment(user_classes=[])
        use_as_master(secret)
        try:
            self._runner = self._environment.create_master_runner(host, port)
        except (Exception, SystemExit) as error:  # Locust ends the process where a port is taken
            raise WorkerError(
                f"--master-bind {host}:{port}: cannot be listened on; it may be taken, choose another one"
            ) from error
        self.port: int = self._runner.server.port
        for kind in (wire.HELLO, wire.PREPARED, wire.CONNECTED, wire.RECORDS, wire.CLOSED):
            self._runner.register_message(kind, self._receive)

    def start_workers(self, number: int) -> None:
        """Start workers on this host; they end with this process."""
        command = [sys.executable, "-m", "fathom_loadtest", "worker", f"127.0.0.1:{self.port}", "--end-with-input"]
        known = {} if self._secret is None else {VARIABLE: self._secret.text}
        for _ in range(number):
            # a session of their own: Ctrl-C is the master's, who tells them
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=os.environ | known)
            )

    def gather(self, number: int, workload: Workload) -> None:
        """Wait for so many workers and give each the workload; who comes later has nothing to do.

        Raises WorkerError where they do not come in time, or cannot work.
        """
        message = wire.workload_message(workload)
        deadline = time.monotonic() + GATHER_WITHIN_S
        while sum(member.is_prepared for member in self._members) < number:
            if time.monotonic() > deadline:
                raise WorkerError(
                    f"{len(self._members)} of {number} workers came within {GATHER_WITHIN_S:g} s; start the others "
                    f"with fathom-load worker HOST:{self.port}"
                )
            for process in self._processes:
                if process.poll() is not None:
                    raise WorkerError(f"a worker ended before the run began, with status {process.returncode}")
            found = self._next_message()
            if found is None:
                continue
            if found.type == wire.HELLO:
                self._welcome(found, message)
            elif found.type == wire.PREPARED:
                member = self._member(found.node_id)
                if member is not None:
                    if found.data["error"] is not None:
                        raise WorkerError(f"{member}: {found.data['error']}")
                    member.is_prepared = True
        self._members = [member for member in self._members if member.is_prepared][:number]

    def run_phase(self, phase: Phase, watch: ServerWatch) -> GeneratorLoad:
        """Run a phase on the workers; fewer users than workers leave some of these idle."""
        active = self._members[: phase.users]
        for place, member in enumerate(active):
            member.begin()
            users = wire.part(phase.users, place, len(active))
            traced = phase.workload.trace is not None
            message = wire.phase_message(
                phase.name, phase.stage, place=place, of=len(active), users=users, traced=traced
            )
            self._send(wire.PHASE, message, member)
        stopping_at: float | None = None
        while any(member.closed is None for member in active):
            found = self._next_message()
            while found is not None:
                self._take(found, phase)
                found = self._next_message(wait=False)
            if phase.opened_ns is None and all(member.is_connected for member in active):
                self._open(phase, active)
            phase.started, phase.late = sum(each.started for each in active), sum(each.late for each in active)
            self._look_for_lost(active)
            if stopping_at is None and (self.interrupted.is_set() or self.lost_worker or self._crash(active)):
                stopping_at = time.monotonic() + _CLOSE_WITHIN_S
                for member in active:
                    self._send(wire.STOP, {}, member)
            waiting = [member for member in active if member.closed is None and not self._is_lost(member)]
            if stopping_at is not None and (not waiting or time.monotonic() > stopping_at):
                break
            self.on_tick(phase)
        return self._conclude(active, watch)

    def _open(self, phase: Phase, active: list[_Member]) -> None:
        phase.opened_ns = time.perf_counter_ns()
        for member in active:
            self._send(wire.OPEN, {"opened_ns": phase.opened_ns}, member)

    def _take(self, found: Any, phase: Phase) -> None:
        """Take a worker's message about the phase."""
        member = self._member(found.node_id)
        if member is None or found.data.get("phase") != phase.name:
            return
        match found.type:
            case wire.CONNECTED:
                member.is_connected = True
            case wire.RECORDS | wire.CLOSED:
                member.started, member.late = found.data["started"], found.data["late"]
                batch = found.data["batch"]
                if batch is not None:
                    tallies = wire.read_tallies(batch["tallies"], phase.workload.scenario)
                    phase.recorder.merge(phase.stage.number, batch["lines"], tallies)
                if found.type == wire.CLOSED:
                    member.closed = found.data

    def _conclude(self, active: list[_Member], watch: ServerWatch) -> GeneratorLoad:
        crash = self._crash(active)
        if crash is not None:
            raise WorkerError(crash)
        closed = [member.closed for member in active if member.closed is not None]
        watch.lost = watch.lost or next((each["server_lost"] for each in closed if each["server_lost"]), None)
        return GeneratorLoad.of_workers([wire.read_load(each["load"]) for each in closed if each["load"] is not None])

    def _crash(self, active: list[_Member]) -> str | None:
        crashed = (member for member in active if member.closed is not None and member.closed["crash"] is not None)
        return next((f"{member}: {member.closed['crash']}" for member in crashed if member.closed is not None), None)

    def _look_for_lost(self, active: list[_Member]) -> None:
        for member in active:
            if self.lost_worker is None and member.closed is None and self._is_lost(member):
                self.lost_worker = str(member)

    def _is_lost(self, member: _Member) -> bool:
        if member.process is not None and member.process.poll() is not None:
            return True
        node = self._runner.clients.get(member.identity)
        return node is None or node.state == _MISSING

    def _welcome(self, found: Any, message: dict[str, Any]) -> None:
        name, version = found.data["name"], found.data["version"]
        if version != __version__:
            raise WorkerError(f"the worker {name} has version {version}, this is {__version__}; install the same one")
        process = next((each for each in self._processes if each.pid == found.data["pid"]), None)
        member = _Member(len(self._members), found.node_id, name, process)
        self._members.append(member)
        self._send(wire.WORKLOAD, message, member)

    def _member(self, identity: str) -> _Member | None:
        return next((member for member in self._members if member.identity == identity), None)

    def _send(self, kind: str, data: dict[str, Any], member: _Member) -> None:
        self._runner.send_message(kind, data, client_id=member.identity)

    def _receive(self, environment: Environment, msg: Any) -> None:
        self._inbox.put(msg)

    def _next_message(self, *, wait: bool = True) -> Any:
        try:
            return self._inbox.get(block=wait, timeout=TICK_S if wait else None)
        except Empty:
            return None

    def close(self) -> None:
        """Let the workers go, and wait for those that were started here."""
        self._runner.quit()
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_END_WITHIN_S)
            if process.poll() is None:
                process.kill()
                process.wait()
        self._runner.server.close(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with gevent.Timeout(2 * _END_WITHIN_S, False):
            self.close()
