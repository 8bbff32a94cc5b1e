"""One phase of a run (a stage, or its warm-up): who may still send, and what came of it."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fathom_loadtest.prompts import PromptSource
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.scenario import Scenario

if TYPE_CHECKING:
    from gevent.event import Event


@dataclass(slots=True)
class Phase:
    """What the users of one phase share.

    All users connect before the first request starts. Requests are numbered in the order in which they start; no
    further one starts after ``requests`` of them, after ``duration_s`` seconds, or once ``close`` was called.
    Requests under way are waited for. ``recorder`` gets each request that ended.
    """

    name: str
    stage: int
    users: int
    scenario: Scenario
    prompts: PromptSource
    recorder: Recorder
    everyone_connected: "Event"
    requests: int | None = None
    duration_s: float | None = None
    started: int = 0
    opened_ns: int | None = None
    _closed: bool = False
    _connected: int = 0

    def connected(self) -> None:
        """Wait until every user is connected; the phase opens then."""
        self._connected += 1
        if self._connected == self.users:
            self.opened_ns = time.perf_counter_ns()
            self.everyone_connected.set()
        self.everyone_connected.wait()

    def take_index(self) -> int | None:
        """Give the number of the next request, or None where no further one may start."""
        if self._closed or self.opened_ns is None or (self.requests is not None and self.started >= self.requests):
            return None
        if self.duration_s is not None and self.elapsed_s() >= self.duration_s:
            return None
        self.started += 1
        return self.started - 1

    def elapsed_s(self) -> float:
        """Seconds since the phase opened; 0 before."""
        return 0.0 if self.opened_ns is None else (time.perf_counter_ns() - self.opened_ns) / 1e9

    def close(self) -> None:
        """Let no further request start, and nobody wait for users who will not come."""
        self._closed = True
        self.everyone_connected.set()

    @property
    def overdue(self) -> bool:
        """Whether requests still run although their own timeout must have ended each of them by now."""
        return self.duration_s is not None and self.elapsed_s() > self.duration_s + self.scenario.timeout_s + 5
