"""One answer of the twin's, from its arrival to its end."""

import math
import random
import time
from typing import Protocol

from fathom_client import protocol
from fathom_loadtest.errors import RefusedRequest
from fathom_loadtest.twin.metrics import AnswerTimes, TwinMetrics
from fathom_loadtest.twin.plan import AnswerPlan
from fathom_loadtest.twin.timeline import Timeline


class AnswerSender(Protocol):
    """How one answer reaches its caller; used by one thread at a time, and after a last response not at all."""

    def send(self, first: int, count: int, finish_reason: str | None) -> None:
        """Send ``count`` tokens from token ``first`` on; with a finish reason they are the last."""
        ...

    def fail(self, refusal: RefusedRequest) -> None:
        """Send an error as the last response."""
        ...

    def cut(self) -> None:
        """End the stream without an end of the answer."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the caller has left."""
        ...


class Refusal:
    """A request that is refused at ``event_s``, by ``time.monotonic``; moved on as an ``Answer`` is."""

    def __init__(self, sender: AnswerSender, refusal: RefusedRequest, event_s: float) -> None:
        self.ended = False
        self.arrived_s = time.monotonic()
        self.event_s = event_s
        self._sender = sender
        self._refusal = refusal

    def admit(self, now_s: float, metrics: TwinMetrics) -> None:
        """It never is."""

    def move_on(self, now_s: float, metrics: TwinMetrics) -> None:
        """Refuse it when it is due."""
        if now_s >= self.event_s:
            self.fail(self._refusal, "error", metrics)

    def leave_if_cancelled(self, metrics: TwinMetrics) -> None:
        """Nobody need ask: it ends at once."""

    def fail(self, refusal: RefusedRequest, reason: str, metrics: TwinMetrics) -> None:
        """End it by an error, counted by the reason."""
        if not self.ended:
            self.ended = True
            metrics.failed(reason)
            self._sender.fail(refusal)

    def abandon(self) -> None:
        """Let go of a sender that does not work any more."""
        self.ended = True


class Answer:
    """An answer under way. Moved on by one thread; only ``admit`` may come from another.

    ``whole`` sends one response at the end. ``arrived_s`` is when Triton handed it over, by ``time.monotonic``.
    ``deadline_s`` ends it, as the engine does, except in a stall: a server that hangs does not keep deadlines either.
    """

    def __init__(
        self,
        sender: AnswerSender,
        plan: AnswerPlan,
        rng: random.Random,
        *,
        prompt_tokens: int,
        whole: bool,
        arrived_s: float,
        deadline_s: float = math.inf,
    ) -> None:
        self.arrived_s = arrived_s
        self.ended = False
        self._sender: AnswerSender | None = sender
        self._plan = plan
        self._rng = rng
        self._prompt_tokens = prompt_tokens
        self._whole = whole
        self._deadline_s = deadline_s
        self._timeline: Timeline | None = None
        self._admitted_s = self._first_s = 0.0

    def admit(self, now_s: float, metrics: TwinMetrics) -> None:
        """Begin: the time to the first token runs from ``now_s``."""
        self._admitted_s = now_s
        self._timeline = Timeline(self._plan, self._rng, now_s)
        metrics.admitted(self._prompt_tokens, now_s - self.arrived_s)

    @property
    def event_s(self) -> float:
        """When something happens next; infinite where nothing will."""
        if self._timeline is None:
            return self._deadline_s
        return self._timeline.due_s if self._timeline.stalled else min(self._timeline.due_s, self._deadline_s)

    def move_on(self, now_s: float, metrics: TwinMetrics) -> None:
        """Do what is due; ``ended`` is set with the last response."""
        sender, timeline = self._sender, self._timeline
        if sender is None or now_s < self.event_s:
            return
        if now_s >= self._deadline_s and not (timeline is not None and timeline.due_s <= self._deadline_s):
            self._end()
            sender.fail(RefusedRequest("DEADLINE_EXCEEDED", f"{protocol.DEADLINE_PREFIX}the answer came too late"))
            metrics.failed("deadline")
            return
        if timeline is None:
            return
        first = timeline.sent
        count, outcome = timeline.take(now_s)
        reason = self._plan.finish_reason if outcome == "ended" else None
        if outcome != "goes on":
            self._end()
        if count and not self._whole:
            sender.send(first, count, reason)
        elif outcome == "ended":
            sender.send(0, timeline.sent, reason)
        self._count(first, count, outcome == "ended", now_s, metrics)
        if outcome == "broken":
            sender.fail(RefusedRequest("INTERNAL", f"the twin was told to break off after {timeline.sent} tokens"))
            metrics.failed("error")
        elif outcome == "cut":
            sender.cut()
            metrics.failed("error")

    def leave_if_cancelled(self, metrics: TwinMetrics) -> None:
        """Ask whether the caller has left; ``ended`` is set if so."""
        sender = self._sender
        if sender is not None and sender.is_cancelled():
            self.fail(RefusedRequest("CANCELLED", "the caller left"), "cancelled", metrics)

    def fail(self, refusal: RefusedRequest, reason: str, metrics: TwinMetrics) -> None:
        """End it by an error, counted by the reason; nothing happens if it has ended."""
        sender = self._sender
        if sender is not None:
            self._end()
            metrics.failed(reason)
            sender.fail(refusal)

    def abandon(self) -> None:
        """Let go of a sender that does not work any more."""
        self._end()

    def _end(self) -> None:
        self.ended = True
        self._sender = None  # what Triton lent is given back with the last response

    def _count(self, first: int, count: int, is_last: bool, now_s: float, metrics: TwinMetrics) -> None:
        if not count:
            return
        metrics.sent(count)
        if first == 0:
            self._first_s = now_s
        times = AnswerTimes(self.arrived_s, self._admitted_s, self._first_s, now_s)
        if first == 0:
            metrics.first_token(times)
        if is_last:
            metrics.answered(self._plan.finish_reason, times, self._plan.tokens)
