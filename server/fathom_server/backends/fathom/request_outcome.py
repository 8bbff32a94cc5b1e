"""How a request ended: noted while its answer passes by, for traces and the log."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fathom_server.engine.request import AnswerSink, Piece, Request
from fathom_server.errors import RequestError


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """A request that has ended; ``created`` to ``ended`` are instants of ``time.monotonic``, in seconds.

    ``error`` is why there is no whole answer. Without ``admitted`` it never ran, without ``first_token`` it had none.
    """

    request_id: str
    model: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    finish_reasons: tuple[str, ...]
    error: str | None
    created: float
    admitted: float | None
    first_token: float | None
    ended: float

    def phases(self) -> Iterator[tuple[str, float, float]]:
        """What it went through, each with its beginning and end: queue, prefill, decode."""
        instants = [self.created, self.admitted, self.first_token, self.ended]
        for name, begun, ended in zip(("queue", "prefill", "decode"), instants, instants[1:], strict=False):
            if begun is None:
                return
            yield name, begun, self.ended if ended is None else ended


class ObservedAnswer:
    """An ``AnswerSink`` that hands an answer on and notes how it ends.

    ``on_outcome`` is called once, when both ``begun`` and ``sent`` have been: the engine may be done with a request
    before its caller knows that it took it.
    """

    def __init__(self, sink: AnswerSink, model: str, on_outcome: Callable[[RequestOutcome], None]) -> None:
        self._sink = sink
        self._model = model
        self._on_outcome = on_outcome
        self._lock = threading.Lock()
        self._request: Request | None = None
        self._is_sent = False
        self._tokens = self._cached_tokens = 0
        self._finish_reasons: list[str] = []
        self._error: str | None = None
        self._ended = 0.0

    def on_piece(self, piece: Piece) -> None:
        """See ``AnswerSink.on_piece``."""
        self._tokens += len(piece.token_ids)
        self._cached_tokens += piece.cached_tokens
        if piece.finish_reason is not None:
            self._finish_reasons.append(piece.finish_reason)
        if piece.is_last:
            self._ended = time.monotonic()
        self._sink.on_piece(piece)

    def on_error(self, error: RequestError) -> None:
        """See ``AnswerSink.on_error``."""
        self._error = str(error)
        self._ended = time.monotonic()
        self._sink.on_error(error)

    def begun(self, request: Request) -> None:
        """Note the request that the engine has taken."""
        with self._lock:
            self._request = request
            is_over = self._is_sent
        if is_over:
            self._tell(request)

    def sent(self) -> None:
        """Note that the last response has gone, or can't go."""
        with self._lock:
            self._is_sent = True
            request = self._request
        if request is not None:
            self._tell(request)

    def _tell(self, request: Request) -> None:
        self._on_outcome(
            RequestOutcome(
                request_id=request.id,
                model=self._model,
                input_tokens=len(request.prompt_ids),
                cached_tokens=self._cached_tokens,
                output_tokens=self._tokens,
                finish_reasons=tuple(self._finish_reasons),
                error=self._error if self._ended else "the answer could not be sent",
                created=request.created,
                admitted=request.admitted,
                first_token=request.first_token,
                ended=self._ended or time.monotonic(),
            )
        )
