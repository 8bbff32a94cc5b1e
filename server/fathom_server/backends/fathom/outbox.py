"""Sends answers to Triton on a thread of its own, so that no step waits for a sender.

Pieces that are ready together travel together: a streamed response costs a fixed time, whatever it carries, and takes
it from the cores that compute. So there is a bound on responses a second of all answers together: with many streams a
response waits a little for company, but for an answer's first and its last.
"""

import heapq
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from fathom_server.engine.request import Piece
from fathom_server.errors import RequestError

logger: Final = logging.getLogger("fathom.backend")

_BEATS: Final = 4
"""In the time between two responses of a stream."""


class AnswerTransport(Protocol):
    """How one answer reaches its caller; called from the outbox's thread alone."""

    def send(self, pieces: Sequence[Piece]) -> None:
        """Send parts of answers, those of one answer together; where the last part ``is_last``, nothing follows."""
        ...

    def send_whole(self, pieces: Sequence[Piece]) -> None:
        """Send all parts of all answers as the only response."""
        ...

    def fail(self, error: RequestError) -> None:
        """Send an error as the last response."""
        ...


class Outbox:
    """The sending thread and what it has yet to send.

    ``responses_per_s`` bounds the streamed responses of all answers; 0 for no bound. First and last responses, errors
    and whole answers are sent at once.
    """

    def __init__(self, responses_per_s: int = 0) -> None:
        self._ready = threading.Condition()
        self._answers: deque[OutgoingAnswer] = deque()
        self._later: list[tuple[float, int, OutgoingAnswer]] = []
        self._order = itertools.count()
        self._share_s = 1.0 / responses_per_s if responses_per_s else 0.0
        self._streams = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fathom-outbox", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send what is left, then end."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join()

    def count_stream(self, change: int) -> None:
        """Count a stream that begins (1) or ends (-1): they share the responses."""
        with self._ready:
            self._streams += change

    def put(self, answer: "OutgoingAnswer", change: Callable[[], None], *, is_urgent: bool) -> None:
        """Apply a change to an answer and have it sent: at once if that is urgent, else when its turn comes."""
        with self._ready:
            change()
            due = 0.0 if is_urgent else self._due(answer.sent_at)
            if due <= time.monotonic():
                if not answer.queued:
                    answer.queued = True
                    self._answers.append(answer)
                    self._ready.notify()
            elif not (answer.queued or answer.waits):
                answer.waits = True
                heapq.heappush(self._later, (due, next(self._order), answer))
                if self._later[0][2] is answer:
                    self._ready.notify()

    def _due(self, sent_at: float) -> float:
        """When the next response of a stream may go; on a beat, so that the thread wakes once for several."""
        interval_s = self._share_s * self._streams
        beat_s = interval_s / _BEATS
        return math.ceil((sent_at + interval_s) / beat_s) * beat_s if beat_s else 0.0

    def _next(self) -> "OutgoingAnswer | None":
        """The answer whose turn it is; None when there is nothing left and no more will come. Holds the lock."""
        while True:
            now = time.monotonic()
            while self._later and (self._closing or self._later[0][0] <= now):
                answer = heapq.heappop(self._later)[2]
                answer.waits = False
                if answer.pieces and not answer.queued:  # what is urgent may have taken them along
                    answer.queued = True
                    self._answers.append(answer)
            if self._answers:
                return self._answers.popleft()
            if self._closing:
                return None
            self._ready.wait(self._later[0][0] - now if self._later else None)

    def _run(self) -> None:
        while True:
            with self._ready:
                answer = self._next()
                if answer is None:
                    return
                answer.queued = False
                answer.sent_at = time.monotonic()
                pieces, answer.pieces = answer.pieces, []
                error = answer.error
            try:
                answer.deliver(pieces, error)
            except Exception:  # a broken transport must not end the thread that serves the others
                logger.exception("an answer could not be sent")
                answer.break_off()


class OutgoingAnswer:
    """One answer on its way: an ``AnswerSink`` for the engine, drained by the outbox.

    ``whole`` sends a single response at the end. From the outbox's thread, one of two is called once: ``on_end`` when
    the last response has gone, ``on_broken`` when a response could not be sent, after which nothing more is.
    """

    def __init__(
        self,
        outbox: Outbox,
        transport: AnswerTransport,
        *,
        whole: bool,
        on_end: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        self._outbox = outbox
        self._transport = transport
        self._whole = whole
        self._on_end = on_end
        self._on_broken = on_broken
        self._broken = False
        self._has_begun = self._is_counted = False
        self._collected: list[Piece] = []
        self.pieces: list[Piece] = []
        self.error: RequestError | None = None
        self.queued = False
        self.waits = False
        self.sent_at = 0.0

    def on_piece(self, piece: Piece) -> None:
        """See ``AnswerSink.on_piece``."""
        if self._whole and not piece.is_last:
            self._collected.append(piece)
            return
        is_first = not (self._whole or self._has_begun)
        if is_first:
            self._has_begun = self._is_counted = True
            self._outbox.count_stream(1)
        self._outbox.put(self, lambda: self.pieces.append(piece), is_urgent=is_first or piece.is_last)

    def on_error(self, error: RequestError) -> None:
        """See ``AnswerSink.on_error``."""

        def set_error() -> None:
            self.error = error

        self._outbox.put(self, set_error, is_urgent=True)

    def deliver(self, pieces: list[Piece], error: RequestError | None) -> None:
        """Send pieces, those of one answer as one response, then an error if there is one."""
        if self._broken:
            return
        if pieces and self._whole:
            self._transport.send_whole([*self._collected, *pieces])
        elif pieces:
            self._transport.send(pieces)
        if error is not None:
            self._transport.fail(error)
        if error is not None or (pieces and pieces[-1].is_last):
            self._leave()
            self._on_end()

    def break_off(self) -> None:
        """Give up: the transport has failed."""
        self._broken = True
        self._leave()
        self._on_broken()

    def _leave(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._outbox.count_stream(-1)
