"""The loop: requests in, pieces of answers out, one step after another on a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from fathom_client import protocol
from fathom_server.engine.request import AnswerSink, Piece, Request, SamplingParameters
from fathom_server.engine.runner.base import Runner
from fathom_server.engine.sampler import next_tokens
from fathom_server.engine.scheduler import PrefillChunk, Scheduler
from fathom_server.engine.settings import EngineSettings
from fathom_server.errors import (
    CancelledRequestError,
    DeadlineError,
    EngineFailureError,
    InvalidRequestError,
    QueueFullError,
    RequestError,
    ShuttingDownError,
)
from fathom_server.text.detokenizer import Detokenizer

logger: Final = logging.getLogger("fathom.engine")


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy the engine is: requests that hold a slot, and requests that wait for one."""

    running: int
    waiting: int


class Engine:
    """Serves one model to many requests at once.

    ``new_detokenizer`` makes the detokenizer of one answer. ``submit`` and ``cancel`` may be called from any thread;
    answers come from the engine's thread.
    """

    def __init__(self, runner: Runner, settings: EngineSettings, new_detokenizer: Callable[[], Detokenizer]) -> None:
        self._runner = runner
        self._limits = settings.limits
        self._vocabulary = settings.graph.vocabulary
        self._eos_token_ids = frozenset(settings.eos_token_ids)
        self._new_detokenizer = new_detokenizer
        self._scheduler = Scheduler(settings.limits.max_batch)
        self._changed = threading.Condition()
        self._inbox: list[Request] = []
        self._unfinished = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fathom-engine", daemon=True)

    def start(self) -> None:
        """Compute a step of every kind once, so that no caller pays for first use, then begin to serve."""
        prompt = np.zeros(min(self._limits.prefill_chunk, self._limits.max_context - 1), dtype=np.int64)
        self._runner.prefill(0, 0, prompt)
        for batch in {1, self._limits.max_batch}:
            self._runner.decode(np.zeros(batch, dtype=np.int32), np.zeros(batch, dtype=np.int64))
        self._thread.start()

    def stop(self) -> None:
        """End at once; what has not been answered fails with ShuttingDownError. Returns when the thread has ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(
        self,
        request_id: str,
        prompt_ids: list[int],
        sampling: SamplingParameters,
        sink: AnswerSink,
        timeout_s: float | None = None,
    ) -> Request:
        """Queue a request; its answer goes to ``sink``.

        ``timeout_s`` counts from now. Raises InvalidRequestError for a prompt that the model cannot take,
        QueueFullError when ``max_queue`` requests wait, and ShuttingDownError after ``stop``.
        """
        request = Request(
            id=request_id,
            prompt_ids=prompt_ids,
            sampling=sampling,
            max_tokens=self._checked_max_tokens(prompt_ids, sampling.max_tokens),
            deadline=time.monotonic() + (self._limits.timeout_s if timeout_s is None else timeout_s),
            sink=sink,
            detokenizer=self._new_detokenizer(),
        )
        with self._changed:
            if self._stopping:
                raise ShuttingDownError("the server is shutting down; send the request to another")
            if self._unfinished >= self._limits.max_batch + self._limits.max_queue:
                raise QueueFullError(
                    f"the queue is full ({self._limits.max_batch} requests run, {self._limits.max_queue} wait); "
                    "try again later"
                )
            self._unfinished += 1
            self._inbox.append(request)
            self._changed.notify()
        return request

    def cancel(self, request: Request) -> None:
        """Drop a request before the next step; its sink gets CancelledRequestError. Nothing happens if it has ended."""
        with self._changed:
            request.cancelled = True
            self._changed.notify()

    def load(self) -> EngineLoad:
        """How busy the engine is now."""
        with self._changed:
            running = self._scheduler.running_count
            return EngineLoad(running=running, waiting=max(0, self._unfinished - running))

    def _checked_max_tokens(self, prompt_ids: list[int], max_tokens: int | None) -> int:
        context = self._limits.max_context
        if not prompt_ids:
            raise InvalidRequestError("the prompt is empty; it must have at least one token")
        if len(prompt_ids) >= context:
            raise InvalidRequestError(
                f"the prompt has {len(prompt_ids)} tokens; the model takes at most {context - 1}, since prompt and "
                f"answer share a context of {context}"
            )
        strangers = [token for token in prompt_ids if not 0 <= token < self._vocabulary]
        if strangers:
            raise InvalidRequestError(
                f"input_ids holds {strangers[0]}; the vocabulary has the ids 0 to {self._vocabulary - 1}"
            )
        room = context - len(prompt_ids)
        if max_tokens is None:
            return min(self._limits.default_max_tokens, room)
        if max_tokens > room:
            raise InvalidRequestError(
                f"max_tokens is {max_tokens}, but a prompt of {len(prompt_ids)} tokens leaves {room} of the context of "
                f"{context}; ask for at most {room} or shorten the prompt"
            )
        return max_tokens

    # ---- the engine's thread ----

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._stopping or self._inbox or self._scheduler.has_work):
                    self._changed.wait()
                if self._stopping:
                    break
                self._scheduler.waiting.extend(self._inbox)
                self._inbox.clear()
            self._drop_leavers()
            self._prefill_step()
            self._decode_step()
        gone = ShuttingDownError("the server is shutting down; the answer is not complete")
        for request in [*self._scheduler, *self._inbox]:
            request.sink.on_error(gone)

    def _drop_leavers(self) -> None:
        for request in list(self._scheduler):
            if request.cancelled:
                self._fail(request, CancelledRequestError("the caller left"))
            elif request.is_late:
                done = f"{len(request.output_ids)} of at most {request.max_tokens} tokens were ready"
                self._fail(request, DeadlineError(f"the request's deadline passed while {done}"))

    def _prefill_step(self) -> None:
        budget = self._limits.prefill_chunk
        while chunk := self._scheduler.next_chunk(budget):
            budget -= chunk.tokens
            try:
                self._prefill(chunk)
            except Exception:
                self._fail_step([chunk.request], "prefill")

    def _prefill(self, chunk: PrefillChunk) -> None:
        request, done = chunk.request, chunk.request.computed_tokens
        token_ids = np.asarray(request.prompt_ids[done : done + chunk.tokens], dtype=np.int64)
        logits = self._runner.prefill(chunk.slot, done, token_ids)
        request.computed_tokens += chunk.tokens
        if not request.remaining_prompt_tokens:
            self._scheduler.begin_decoding(request)
            self._give([request], next_tokens(logits, [request]))

    def _decode_step(self) -> None:
        batch = list(self._scheduler.decoding)
        if not batch:
            return
        try:
            logits = self._runner.decode(
                np.array([request.computed_tokens for request in batch], dtype=np.int32),
                np.array([request.output_ids[-1] for request in batch], dtype=np.int64),
            )
            for request in batch:
                request.computed_tokens += 1
            tokens = next_tokens(logits, batch)
        except Exception:
            self._fail_step(batch, "decode")
        else:
            self._give(batch, tokens)

    def _give(self, requests: list[Request], tokens: list[int | None]) -> None:
        for request, token in zip(requests, tokens, strict=True):
            if token is None:
                logger.error("request %s: the model's logits are not finite", request.id)
                self._fail(request, EngineFailureError(f"the model gave logits that are not finite (id {request.id})"))
                continue
            request.output_ids.append(token)
            piece = self._piece(request, token)
            if piece.finish_reason is not None:
                self._leave(request)
            request.sink.on_piece(piece)

    def _piece(self, request: Request, token: int) -> Piece:
        text = request.stop_filter.push(request.detokenizer.push((token,)))
        if request.stop_filter.stopped:
            reason: str | None = protocol.FINISH_STOP
        elif token in self._eos_token_ids and not request.sampling.ignore_eos:
            reason = protocol.FINISH_STOP
        elif len(request.output_ids) == request.max_tokens:
            reason = protocol.FINISH_LENGTH
        else:
            reason = None
        if reason is not None:
            text += request.stop_filter.flush()
        return Piece(text, (token,), reason)

    def _fail_step(self, requests: list[Request], kind: str) -> None:
        """An exception in a step ends the requests in it, not the engine."""
        ids = ", ".join(request.id for request in requests)
        logger.exception("a %s step failed; requests: %s", kind, ids)
        for request in requests:
            self._fail(request, EngineFailureError(f"a {kind} step failed; see the server's log (id {request.id})"))

    def _fail(self, request: Request, error: RequestError) -> None:
        self._leave(request)
        request.sink.on_error(error)

    def _leave(self, request: Request) -> None:
        """Free what a request holds; the slots stay side by side."""
        for move in self._scheduler.remove(request):
            self._runner.cache.move(move.source, move.destination, move.length)
        with self._changed:
            self._unfinished -= 1
