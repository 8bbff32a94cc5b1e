"""vLLM as an engine: each answer is a request of its own to the model behind, and its responses become pieces."""

import heapq
import logging
import threading
import time
from array import array
from collections.abc import Sequence as Ids
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fathom_client import protocol
from fathom_server.engine.answer_length import checked_max_tokens
from fathom_server.engine.metrics import EngineLoad, EngineMetrics
from fathom_server.engine.request import AnswerSink, Piece, Request
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.errors import (
    CancelledRequestError,
    DeadlineError,
    EngineFailureError,
    InvalidRequestError,
    QueueFullError,
    RequestError,
    ShuttingDownError,
)
from fathom_server.text.tokenizer import TextTokenizer
from fathom_server.vllm.prompt_text import PromptTexts
from fathom_server.vllm.response import Delta, read_delta
from fathom_server.vllm.sampling_json import refuse_unsupported, sampling_json
from fathom_server.vllm.settings import VllmSettings
from fathom_server.vllm.upstream import Tensors, Upstream, UpstreamAnswer, UpstreamError

logger: Final = logging.getLogger("fathom.vllm")

_REASONS: Final = (protocol.FINISH_STOP, protocol.FINISH_LENGTH)
_SWALLOWED: Final = "'NoneType' object has no attribute"
"""In what the backend says of sampling parameters that vLLM refused, after it has logged why."""


@dataclass(slots=True, eq=False)
class _Call:
    """A request under way: its answers' streams, how many tokens each has, and which of them have ended."""

    request: Request
    answers: list[UpstreamAnswer] = field(default_factory=list)
    tokens: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)


class VllmEngine:
    """Serves one model that vLLM computes; the same calls as ``Engine``, from any thread.

    A thread waits for each answer. A request that is cancelled or late is answered at once; vLLM is told as soon as it
    has sent its first response, since Triton knows of a request within the server only from then on.
    """

    def __init__(self, upstream: Upstream, settings: VllmSettings, tokenizer: TextTokenizer) -> None:
        self._upstream = upstream
        self._settings = settings
        self._prompts = PromptTexts(tokenizer)
        self._vocabulary = tokenizer.tokenizer.get_vocab_size()
        self.metrics = EngineMetrics(steps={})  # steps are vLLM's own affair
        self._changed = threading.Condition()
        self._calls: dict[Request, _Call] = {}
        self._deadlines: list[tuple[float, int, Request]] = []
        self._arrivals = 0
        self._sequences = 0
        self._stopping = False
        self._relays = ThreadPoolExecutor(settings.max_requests, thread_name_prefix="fathom-vllm")
        self._clock = threading.Thread(target=self._run_clock, name="fathom-deadlines", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._clock.start()

    def stop(self) -> None:
        """End at once; what has not been answered fails with ShuttingDownError. Returns when vLLM has let go of it."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            calls = list(self._calls)
        for request in calls:
            self._fail(request, ShuttingDownError("the server is shutting down; the answer is not complete"), "error")
        if self._clock.is_alive():
            self._clock.join()
        self._relays.shutdown(cancel_futures=True)
        self._upstream.close()

    def prepare_grammars(self) -> None:
        """Nothing to do: vLLM compiles its own."""

    def submit(
        self,
        request_id: str,
        prompt_ids: Ids[int],
        sampling: SamplingParameters,
        sink: AnswerSink,
        timeout_s: float | None = None,
        *,
        priority: int = 0,
        client: str = "",
        precision: str | None = None,
        bad_word_ids: Ids[Ids[int]] = (),
    ) -> Request:
        """Send a request on; its answers go to ``sink``.

        ``timeout_s`` counts from now. ``client`` and ``bad_word_ids`` say nothing here: vLLM serves in order, and makes
        the words' tokens itself.

        Raises InvalidRequestError for what vLLM cannot take, QueueFullError where too many requests are with it, and
        ShuttingDownError after ``stop``.
        """
        if priority:
            raise InvalidRequestError(
                f"priority is {priority}, but Triton's vLLM backend hands none on; leave it out, or send 0"
            )
        if precision is not None:
            raise InvalidRequestError(f"precision is {precision!r}, but this model has one precision; leave it out")
        refuse_unsupported(sampling)
        sampling.check_vocabulary(self._vocabulary)
        settings = self._settings
        max_tokens = checked_max_tokens(len(prompt_ids), sampling, settings.max_context, settings.default_max_tokens)
        text = self._prompts.of(prompt_ids)
        now = time.monotonic()
        request = Request(
            id=request_id,
            prompt_ids=array("i", prompt_ids),
            sampling=sampling,
            max_tokens=max_tokens,
            sink=sink,
            deadline=now + (settings.timeout_s if timeout_s is None else timeout_s),
            client=client,
            created=now,
        )
        with self._changed:
            if self._stopping:
                raise ShuttingDownError("the server is shutting down; send the request to another")
            if self._sequences + sampling.n > settings.max_requests:
                raise QueueFullError(
                    f"{self._sequences} answers are with vLLM or wait for it, of at most {settings.max_requests}; try "
                    "again later"
                )
            self._sequences += sampling.n
            self._arrivals += 1
            request.arrival = self._arrivals
            self._calls[request] = _Call(request)
            heapq.heappush(self._deadlines, (request.deadline, request.arrival, request))
            self.metrics.prompt_tokens += len(prompt_ids)
            self._changed.notify_all()
            for index in range(sampling.n):
                self._relays.submit(self._relay, request, index, text)
        return request

    def cancel(self, request: Request) -> None:
        """Drop a request; its sink gets CancelledRequestError. Nothing happens if it has ended."""
        request.cancelled = True
        self._fail(request, CancelledRequestError("the caller left"), "cancelled")

    def load(self) -> EngineLoad:
        """How busy it is; how full vLLM's cache is nobody tells."""
        with self._changed:
            running = sum(request.first_token is not None for request in self._calls)
            return EngineLoad(running, len(self._calls) - running, None)

    # ---- one thread an answer ----

    def _relay(self, request: Request, index: int, text: str) -> None:
        try:
            if self._is_gone(request):
                return
            answer = self._upstream.ask(request.id, _inputs(request, index, text))
            with self._changed:
                call = self._calls.get(request)
                if call is not None:
                    call.answers.append(answer)
            if call is None:
                answer.cancel()
            for outputs in answer:  # to the end, whatever comes of the request
                if not self._is_gone(request):
                    self._hand_on(request, index, outputs)
            if not self._has_ended(request, index):
                raise ValueError("it ended without a reason")
        except UpstreamError as error:
            self._fail(request, _refusal(error, request.id), "error")
        except Exception:
            self._fail_unread(request)
        finally:
            with self._changed:
                self._sequences -= 1

    def _hand_on(self, request: Request, index: int, outputs: Tensors) -> None:
        """Give a response to the sink; one that cannot be read fails the request."""
        try:
            delta = read_delta(outputs, request.sampling.logprobs or 0)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError):
            self._fail_unread(request)
            return
        if delta.finish_reason is not None and delta.finish_reason not in _REASONS:
            error = UpstreamError(f"the answer ended by {delta.finish_reason!r}", is_unavailable=True)
            self._fail(request, _refusal(error, request.id), "error")
        elif delta.choices or delta.text or delta.finish_reason is not None:
            self._give(request, index, delta)

    def _fail_unread(self, request: Request) -> None:
        """End a request whose answer has a form that nobody knows; for an exception's handler."""
        logger.exception("request %s: vLLM's answer could not be read", request.id)
        self._fail(request, EngineFailureError(f"vLLM's answer could not be read (id {request.id})"), "error")

    def _give(self, request: Request, index: int, delta: Delta) -> None:
        now = time.monotonic()
        with self._changed:
            call = self._calls.get(request)
            if call is None:
                return
            if request.first_token is None:
                request.admitted = request.first_token = now
                self.metrics.time_to_first_token.observe(now - request.created)
            call.tokens[index] = call.tokens.get(index, 0) + len(delta.choices)
            self.metrics.generation_tokens += len(delta.choices)
            if delta.finish_reason is not None:
                call.ended.add(index)
                self.metrics.count_end(delta.finish_reason)
            is_last = len(call.ended) == request.sampling.n
            if is_last:
                self._note_end(call, now)
                del self._calls[request]
            # within the lock, so that the pieces of several answers come one after the other, the last one last
            request.sink.on_piece(
                Piece(
                    sequence=index,
                    text=delta.text,
                    token_ids=tuple(choice.token for choice in delta.choices),
                    finish_reason=delta.finish_reason,
                    choices=delta.choices if request.sampling.wants_logprobs else (),
                    is_last=is_last,
                )
            )

    def _note_end(self, call: _Call, now: float) -> None:
        first = call.request.first_token or now
        self.metrics.count_answered(now - call.request.created, now - first, max(call.tokens.values()))

    def _fail(self, request: Request, error: RequestError, reason: str) -> None:
        """End a request that has not ended, and have vLLM drop it."""
        with self._changed:
            call = self._calls.pop(request, None)
            if call is None:
                return
            self.metrics.count_end(reason)
            request.sink.on_error(error)
            answers = list(call.answers)
        for answer in answers:
            answer.cancel()

    def _is_gone(self, request: Request) -> bool:
        with self._changed:
            return request not in self._calls

    def _has_ended(self, request: Request, index: int) -> bool:
        with self._changed:
            call = self._calls.get(request)
            return call is None or index in call.ended

    # ---- the clock's thread ----

    def _run_clock(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                now = time.monotonic()
                if not self._deadlines or self._deadlines[0][0] > now:
                    self._changed.wait(self._deadlines[0][0] - now if self._deadlines else None)
                    continue
                _, _, request = heapq.heappop(self._deadlines)
                call = self._calls.get(request)
                done = sum(call.tokens.values()) if call is not None else 0
            most = request.max_tokens * request.sampling.n
            message = f"the request's deadline passed while {done} of at most {most} tokens were ready"
            self._fail(request, DeadlineError(message), "deadline")


def _inputs(request: Request, index: int, text: str) -> Tensors:
    parameters = sampling_json(request.sampling, request.max_tokens, index)
    flags = (
        protocol.STREAM,
        protocol.RETURN_FINISH_REASON,
        protocol.RETURN_LOGPROBS,
        protocol.RETURN_NUM_INPUT_TOKENS,
        protocol.RETURN_NUM_OUTPUT_TOKENS,
    )
    return {
        protocol.TEXT_INPUT: _strings(text),
        protocol.SAMPLING_PARAMETERS: _strings(parameters),
        **{flag: np.array([True]) for flag in flags},
    }


def _strings(text: str) -> npt.NDArray[Any]:
    return np.array([text.encode()], dtype=np.object_)


def _refusal(error: UpstreamError, request_id: str) -> RequestError:
    if error.is_unavailable:
        return ShuttingDownError(f"vLLM cannot answer now ({error}); send the request again, or to another server")
    if _SWALLOWED in str(error):
        return InvalidRequestError("vLLM does not take these sampling parameters; the server's log says why")
    logger.error("request %s: vLLM failed: %s", request_id, error)
    return EngineFailureError(f"vLLM failed: {error} (id {request_id})")
