"""Sends answers to Triton on a thread of its own, so that no step waits for a sender.

Pieces that are ready together travel together: a streamed response costs a fixed time, whatever it carries.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from fathom_server.engine.request import Piece
from fathom_server.errors import RequestError

logger: Final = logging.getLogger("fathom.backend")


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
    """The sending thread and what it has yet to send."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._answers: deque[OutgoingAnswer] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fathom-outbox", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send what is left, then end."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join()

    def put(self, answer: "OutgoingAnswer", change: Callable[[], None]) -> None:
        """Apply a change to an answer and have it sent."""
        with self._ready:
            change()
            if not answer.queued:
                answer.queued = True
                self._answers.append(answer)
                self._ready.notify()

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._answers and not self._closing:
                    self._ready.wait()
                if not self._answers:
                    return
                answer = self._answers.popleft()
                answer.queued = False
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
        self._collected: list[Piece] = []
        self.pieces: list[Piece] = []
        self.error: RequestError | None = None
        self.queued = False

    def on_piece(self, piece: Piece) -> None:
        """See ``AnswerSink.on_piece``."""
        if self._whole and not piece.is_last:
            self._collected.append(piece)
            return
        self._outbox.put(self, lambda: self.pieces.append(piece))

    def on_error(self, error: RequestError) -> None:
        """See ``AnswerSink.on_error``."""

        def set_error() -> None:
            self.error = error

        self._outbox.put(self, set_error)

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
            self._on_end()

    def break_off(self) -> None:
        """Give up: the transport has failed."""
        self._broken = True
        self._on_broken()
