"""One phase of a run (a stage, or its warm-up): who may still send, when, and what came of it."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import gevent
from gevent.event import Event
from gevent.queue import Queue

from fathom_loadtest.load.plan import Stage
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.spare_time import SpareTime
from fathom_loadtest.workload import WHOLE, Item, Share, Workload

_NS_PER_S: Final = 1_000_000_000


@dataclass(slots=True)
class Phase:
    """What the users of one phase share.

    All users connect before the first request starts. Items are numbered in the order in which they start (closed
    loop) or are due (open loop); no further one starts after the stage's requests or seconds, or once ``close`` was
    called. Requests under way are waited for, and so are those of an open loop that were due and found no free user;
    ``late`` counts these. ``recorder`` gets each request that ended, in ``spare_time``, which whoever runs the phase
    finishes. There, too, a closed loop's next items are composed, while answers are waited for. Where that work fails,
    nothing further may start.

    ``users`` are those of this process, whose part of the items ``share`` tells.
    """

    name: str
    stage: Stage
    workload: Workload
    recorder: Recorder
    users: int
    share: Share = WHOLE
    started: int = 0
    late: int = 0
    opened_ns: int | None = None
    crash: BaseException | None = None
    spare_time: SpareTime = field(default_factory=SpareTime)
    _next: int = 0
    _composed: deque[Item] = field(default_factory=deque)
    _busy: int = 0
    _connected: int = 0
    _closed: bool = False
    _opened: Event = field(default_factory=Event)
    _due: "Queue[Item | None]" = field(default_factory=Queue)
    _dispatcher: gevent.Greenlet | None = None

    def __post_init__(self) -> None:
        self._next = self.share.place

    def connected(self) -> None:
        """Wait until every user is connected, upon which the phase opens, and then for the user's turn on the ramp."""
        number = self._connected
        self._connected += 1
        if self._connected == self.users and self.opened_ns is None:
            self.open()
        self._opened.wait()
        if self.stage.ramp_s and self.opened_ns is not None:
            self._sleep_until(self.opened_ns + round(number / self.users * self.stage.ramp_s * _NS_PER_S))

    def open(self) -> None:
        """Let requests start."""
        self.opened_ns = time.perf_counter_ns()
        times = self.workload.due_times_s(self.name, self.stage)
        if times is not None:
            self._dispatcher = gevent.spawn(self._dispatch, times)
            self._dispatcher.link_exception(self._note_crash)
        self._opened.set()

    def take(self) -> Item | None:
        """Give the next item, in an open loop once one is due; None where no further one may start."""
        if self._dispatcher is not None:
            item = None if self._closed else self._due.get()
        elif self.may_start() and (self.stage.requests is None or self._next < self.stage.requests):
            item = self._composed.popleft() if self._composed else self.workload.item(self.name, self._next)
            self._next += self.share.of
            self.spare_time.do(self._compose)
        else:
            item = None
        self._busy += item is not None
        return item

    def done(self) -> None:
        """Note that a user has finished with its item."""
        self._busy -= 1

    def may_start(self) -> bool:
        """Whether another request may start now, were there one."""
        if self._closed or self.opened_ns is None or self.spare_time.failure is not None:
            return False
        return self.stage.duration_s is None or self.elapsed_s() < self.stage.duration_s

    def elapsed_s(self) -> float:
        """Seconds since the phase opened; 0 before."""
        return 0.0 if self.opened_ns is None else (time.perf_counter_ns() - self.opened_ns) / _NS_PER_S

    def close(self) -> None:
        """Let no further request start, and nobody wait for users or requests that will not come."""
        self._closed = True
        self._opened.set()
        if self._dispatcher is not None:
            self._dispatcher.kill(block=False)
            self._end()

    @property
    def overdue(self) -> bool:
        """Whether requests still run although their own timeouts must have ended each of them by now.

        In an open loop a request may wait for one timeout to be sent, and for another one to be answered.
        """
        limit_s = self.workload.scenario.timeout_s
        return self.stage.duration_s is not None and self.elapsed_s() > self.stage.duration_s + 2 * limit_s + 5

    def _compose(self) -> None:
        """Make the next item of a closed loop that is not made yet, so that whoever takes it need not wait for it."""
        index = self._next + len(self._composed) * self.share.of
        if not self._closed and (self.stage.requests is None or index < self.stage.requests):
            self._composed.append(self.workload.item(self.name, index))

    def _dispatch(self, times: Iterator[float]) -> None:
        """Put each item in the queue when it is due."""
        assert self.opened_ns is not None  # noqa: S101 - who spawned this has set it
        for index, due_s in enumerate(times):
            if self.stage.duration_s is not None and due_s >= self.stage.duration_s:
                break
            if index % self.share.of != self.share.place:
                continue
            due_ns = self.opened_ns + round(due_s * _NS_PER_S)
            item = self.workload.item(self.name, index, due_ns)  # composed before it is due
            self._sleep_until(due_ns)
            self.late += self._busy + self._due.qsize() >= self.users
            self._due.put(item)
        self._end()

    def _end(self) -> None:
        for _ in range(self.users):
            self._due.put(None)

    def _sleep_until(self, at_ns: int) -> None:
        while (left_ns := at_ns - time.perf_counter_ns()) > 0:
            gevent.sleep(left_ns / _NS_PER_S)

    def _note_crash(self, dispatcher: gevent.Greenlet) -> None:
        self.crash = dispatcher.exception
        self._end()
