"""Sends every answer's tokens when they are due, and finds out which callers have left."""

import heapq
import itertools
import logging
import math
import threading
import time
from collections import deque
from typing import Final

from fathom_client import protocol
from fathom_loadtest.errors import RefusedRequest
from fathom_loadtest.twin.admission import Admission
from fathom_loadtest.twin.answer import Answer, AnswerSender, Refusal
from fathom_loadtest.twin.metrics import TwinMetrics

logger: Final = logging.getLogger("fathom.twin")

Paced = Answer | Refusal

_ASK_EACH_S: Final = 0.02
_ASK_ONE_S: Final = 0.004
"""Each caller is asked for every 20 ms, but one question takes Triton a while: no lane asks more than 250 a second."""

_MOST_LEAD_S: Final = 0.001
_LEAD_GAIN: Final = 0.02
"""A token is due when Triton has it, so a lane sets out earlier, by what waking and handing over lately took.

It is 1 ms at most, which is about what that takes. The way to the twin, which leads through the same queues, and back
takes longer, so no caller gets a token before its time; a lane that has more to send than it can does not run ahead.
"""

_SLACK: Final = 64
"""Outdated notes of events that a lane may hold beyond one a live answer."""


class Pacer:
    """Answers on ``lanes`` threads, each of which has answers of its own; slots and queue are common to all.

    A thread sleeps until the next token of its answers is due, so an idle twin costs nothing. One thread sends a
    response at a time and waits for Triton to take it, so several lanes send more.
    """

    def __init__(self, max_batch: int, max_queue: int, metrics: TwinMetrics, lanes: int) -> None:
        self.admission: Admission[Paced] = Admission(max_batch, max_queue)
        self._metrics = metrics
        self._lanes = [_Lane(self, metrics) for _ in range(lanes)]
        self._lane_of: dict[Paced, _Lane] = {}
        self._turn = itertools.count()

    def submit(self, answer: Answer) -> None:
        """Take an answer over; raises RefusedRequest where the queue is full."""
        lane = self._lane_of[answer] = self._lanes[next(self._turn) % len(self._lanes)]
        try:
            runs = self.admission.enter(answer)
        except RefusedRequest:
            del self._lane_of[answer]
            raise
        lane.add(answer, admitted=runs)

    def refuse(self, sender: AnswerSender, refusal: RefusedRequest) -> None:
        """Refuse a request, a moment later (``protocol.REFUSE_AFTER_S``) and from a lane's thread."""
        answer = Refusal(sender, refusal, time.monotonic() + protocol.REFUSE_AFTER_S + _MOST_LEAD_S)
        lane = self._lane_of[answer] = self._lanes[next(self._turn) % len(self._lanes)]
        lane.add(answer, admitted=False)

    def leave(self, answer: Paced) -> None:
        """Free what an ended answer held, for the next one that waits."""
        self._lane_of.pop(answer, None)
        following = self.admission.leave(answer)
        self._metrics.changed.set()
        if following is not None:
            self._lane_of[following].admit(following)

    def close(self) -> None:
        """End every answer that is left, and the threads."""
        for lane in self._lanes:
            lane.close()
        for answer in list(self._lane_of):
            answer.fail(RefusedRequest("UNAVAILABLE", "the twin is shutting down"), "error", self._metrics)


class _Lane:
    """One thread and its answers."""

    def __init__(self, pacer: Pacer, metrics: TwinMetrics) -> None:
        self._pacer = pacer
        self._metrics = metrics
        self._changed = threading.Condition()
        self._events: list[tuple[float, int, Paced]] = []
        self._order = itertools.count()
        self._entry_of: dict[Paced, int] = {}
        self._to_ask: deque[Paced] = deque()
        self._ask_s = 0.0
        self._wake_s = 0.0
        self._lead_s = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fathom-twin-lane", daemon=True)
        self._thread.start()

    def add(self, answer: Paced, *, admitted: bool) -> None:
        with self._changed:
            now_s = time.monotonic()
            if not self._to_ask:
                self._ask_s = now_s + _ASK_EACH_S
            self._to_ask.append(answer)
            if admitted:
                answer.admit(answer.arrived_s, self._metrics)  # reading it took a while
            self._schedule(answer)

    def admit(self, answer: Paced) -> None:
        with self._changed:
            answer.admit(time.monotonic(), self._metrics)
            self._schedule(answer)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _schedule(self, answer: Paced) -> None:
        """Note when an answer moves on, in place of what was noted before; wakes the thread where that is sooner."""
        if answer.ended:  # its caller left while it was let in
            return
        entry = self._entry_of[answer] = next(self._order)
        if answer.event_s < math.inf:
            heapq.heappush(self._events, (answer.event_s, entry, answer))
        if len(self._events) > 2 * len(self._entry_of) + _SLACK:
            self._events = [event for event in self._events if self._entry_of.get(event[2]) == event[1]]
            heapq.heapify(self._events)
        if min(answer.event_s, self._ask_s) < self._wake_s:
            self._changed.notify()

    def _run(self) -> None:
        while (due := self._wait()) is not None:
            answer, asks = due
            due_s = answer.event_s
            try:
                if asks:
                    answer.leave_if_cancelled(self._metrics)
                else:
                    answer.move_on(time.monotonic() + self._lead_s, self._metrics)
                    self._lead_s += _LEAD_GAIN * (time.monotonic() - due_s)
                    self._lead_s = min(max(self._lead_s, 0.0), _MOST_LEAD_S)
            except Exception:  # one broken caller must not end the thread that serves the others
                logger.exception("an answer could not be sent")
                answer.abandon()
            if answer.ended:
                with self._changed:
                    self._entry_of.pop(answer, None)
                self._pacer.leave(answer)
            elif not asks:
                with self._changed:
                    self._schedule(answer)

    def _wait(self) -> tuple[Paced, bool] | None:
        """Wait until an answer moves on, or its caller is to be asked for; None when the lane closes."""
        with self._changed:
            while not self._closing:
                now_s = time.monotonic()
                if self._to_ask and now_s >= self._ask_s:
                    answer = self._next_to_ask(now_s)
                    if answer is not None:
                        return answer, True
                while self._events and self._events[0][0] - self._lead_s <= now_s:
                    _, entry, answer = heapq.heappop(self._events)
                    if self._entry_of.get(answer) == entry:
                        return answer, False
                due_s = self._events[0][0] - self._lead_s if self._events else math.inf
                self._wake_s = min(due_s, self._ask_s if self._to_ask else math.inf)
                self._changed.wait(None if self._wake_s == math.inf else max(0.0, self._wake_s - now_s))
                self._wake_s = 0.0
            return None

    def _next_to_ask(self, now_s: float) -> Paced | None:
        while self._to_ask:
            answer = self._to_ask.popleft()
            if not answer.ended:
                self._to_ask.append(answer)
                self._ask_s = now_s + max(_ASK_EACH_S / len(self._to_ask), _ASK_ONE_S)
                return answer
        return None
