"""Triton's adaptor of the engine: it translates requests, responses, errors and cancellations, nothing more."""

import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils

from fathom_client import protocol
from fathom_server.backends.fathom.generate_request import GenerateRequest, read_generate_request
from fathom_server.backends.fathom.outbox import Outbox, OutgoingAnswer
from fathom_server.engine.engine import Engine, EngineLoad
from fathom_server.engine.request import Piece, Request
from fathom_server.engine.runner.load import load_runner
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
from fathom_server.metric_names import REQUESTS_RUNNING, REQUESTS_WAITING
from fathom_server.text.detokenizer import DetokenizerFactory
from fathom_server.text.tokenizer import TextTokenizer

_WATCH_INTERVAL_S: Final = 0.01
_MICROSECONDS: Final = 1e6

# names of pb_utils.TritonError's codes; Triton fills that class in only after this module is imported
_ERROR_CODES: Final = {
    InvalidRequestError: "INVALID_ARG",
    QueueFullError: "UNAVAILABLE",
    ShuttingDownError: "UNAVAILABLE",
    DeadlineError: "CANCELLED",
    CancelledRequestError: "CANCELLED",
    EngineFailureError: "INTERNAL",
}


class TritonPythonModel:
    """One served LLM."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load graph and tokenizer, warm the engine up, begin to serve."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        folder = Path(args["model_repository"]) / args["model_version"]
        settings = EngineSettings.load(folder)
        self._tokenizer = TextTokenizer.load(folder)
        self._engine = Engine(
            load_runner(folder, settings), settings, DetokenizerFactory(self._tokenizer.tokenizer).new
        )
        self._outbox = Outbox()
        self._gauges = LoadGauges(self._engine, args["model_name"])
        self._watch = CancellationWatch(self._engine, on_tick=self._gauges.refresh)
        self._engine.start()

    def execute(self, requests: list[Any]) -> None:
        """Hand each request to the engine; its answer is sent when it comes."""
        for request in requests:
            transport = TritonTransport(request)
            try:
                self._submit(request, transport)
            except RequestError as error:
                transport.fail(error)
            except Exception:
                logging.getLogger("fathom.backend").exception("request %s failed", request.request_id())
                transport.fail(EngineFailureError(f"the request could not be read (id {request.request_id()})"))

    def finalize(self) -> None:
        """End whatever is still running and send the last responses."""
        self._engine.stop()
        self._watch.close()
        self._outbox.close()
        self._gauges.close()
        # what Triton lent (senders, metrics) must be gone before its process is: a late destructor would crash the stub
        del self._engine, self._watch, self._outbox, self._gauges
        gc.collect()

    def _submit(self, request: Any, transport: "TritonTransport") -> None:
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        call = read_generate_request(tensors, self._tokenizer)
        transport.describe(call, "" if call.exclude_input_in_output else self._tokenizer.decode(call.prompt_ids))
        watched = WatchedRequest(transport)
        answer = OutgoingAnswer(
            self._outbox,
            transport,
            whole=not call.stream,
            on_end=lambda: self._end(watched),
            on_broken=lambda: self._abandon(watched),
        )
        timeout_us = request.timeout()
        watched.request = self._engine.submit(
            request.request_id(),
            call.prompt_ids,
            call.sampling,
            answer,
            timeout_us / _MICROSECONDS if timeout_us > 0 else None,
        )
        self._watch.add(watched)

    def _end(self, watched: "WatchedRequest") -> None:
        self._watch.remove(watched)
        self._gauges.refresh()

    def _abandon(self, watched: "WatchedRequest") -> None:
        if watched.request is not None:
            self._engine.cancel(watched.request)
        self._end(watched)


class TritonTransport:
    """Responses of one request (see ``AnswerTransport``).

    Triton frees what stands behind a sender with the last response, and asking a freed one whether its caller has left
    ends the whole server. So sending and asking share a lock, and after the last response nobody asks.
    """

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()
        self._lock = threading.Lock()
        self._complete = False
        self._names = frozenset(request.requested_output_names())
        self._num_input_tokens = 0
        self._echo = ""

    def describe(self, call: GenerateRequest, echo: str) -> None:
        """Take over what responses need of the call, and the prompt's text if it is to stand before the answer."""
        self._names &= call.outputs
        self._num_input_tokens = len(call.prompt_ids)
        self._echo = echo

    def send(self, piece: Piece) -> None:
        """See ``AnswerTransport.send``."""
        text, self._echo = self._echo + piece.text, ""
        values = {
            protocol.TEXT_OUTPUT: np.array([text.encode()], dtype=np.object_),
            protocol.FINISH_REASON: np.array([(piece.finish_reason or "").encode()], dtype=np.object_),
            protocol.NUM_INPUT_TOKENS: np.array([self._num_input_tokens], dtype=np.uint32),
            protocol.NUM_OUTPUT_TOKENS: np.array([len(piece.token_ids)], dtype=np.uint32),
            protocol.OUTPUT_IDS: np.array(piece.token_ids, dtype=np.int32),
        }
        tensors = [pb_utils.Tensor(name, value) for name, value in values.items() if name in self._names]
        self._respond(pb_utils.InferenceResponse(output_tensors=tensors), last=piece.finish_reason is not None)

    def fail(self, error: RequestError) -> None:
        """See ``AnswerTransport.fail``."""
        prefix = protocol.DEADLINE_PREFIX if isinstance(error, DeadlineError) else ""
        code = getattr(pb_utils.TritonError, _ERROR_CODES[type(error)])
        triton_error = pb_utils.TritonError(f"{prefix}{error}", code)
        self._respond(pb_utils.InferenceResponse(output_tensors=[], error=triton_error), last=True)

    def is_cancelled(self) -> bool:
        """Whether the caller has left before the last response."""
        with self._lock:
            return not self._complete and bool(self._sender.is_cancelled())

    def _respond(self, response: Any, *, last: bool) -> None:
        with self._lock:
            self._complete = last
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0)


class WatchedRequest:
    """A request in the engine and the transport that knows whether its caller is still there."""

    def __init__(self, transport: TritonTransport) -> None:
        self.transport = transport
        self.request: Request | None = None


class CancellationWatch:
    """Asks Triton, request by request, whether the caller has left; it tells nobody by itself.

    ``on_tick`` is called after every round of questions, for as long as there are requests.
    """

    def __init__(self, engine: Engine, on_tick: Callable[[], None]) -> None:
        self._engine = engine
        self._on_tick = on_tick
        self._changed = threading.Condition()
        self._watched: set[WatchedRequest] = set()
        self._ended: set[WatchedRequest] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fathom-cancellation", daemon=True)
        self._thread.start()

    def add(self, watched: WatchedRequest) -> None:
        """Watch a request until it is removed; one that has ended already is not."""
        with self._changed:
            if watched in self._ended:
                self._ended.discard(watched)
                return
            self._watched.add(watched)
            self._changed.notify()

    def remove(self, watched: WatchedRequest) -> None:
        """Stop watching; its answer is complete."""
        with self._changed:
            if watched in self._watched:
                self._watched.discard(watched)
            else:
                self._ended.add(watched)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._watched or self._closing):
                    self._changed.wait()
                if self._closing:
                    return
                watched = list(self._watched)
            for one in watched:
                if one.request is not None and not one.request.cancelled and one.transport.is_cancelled():
                    self._engine.cancel(one.request)
            self._on_tick()
            with self._changed:
                self._changed.wait_for(lambda: self._closing, timeout=_WATCH_INTERVAL_S)


class LoadGauges:
    """The engine's load on Triton's metrics port, under the names that LLM dashboards use."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        # the families are kept, since a family must outlive its metrics
        self._running_family = _gauge_family(REQUESTS_RUNNING, "Requests that hold a slot")
        self._waiting_family = _gauge_family(REQUESTS_WAITING, "Requests that wait for a slot")
        self._running = self._running_family.Metric(labels={"model": model})
        self._waiting = self._waiting_family.Metric(labels={"model": model})
        self._written = EngineLoad(running=0, waiting=0)
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Write the load as it is now, if it has changed: each write is a message to Triton's process."""
        with self._lock:
            load = self._engine.load()
            if load != self._written:
                self._written = load
                self._running.set(load.running)
                self._waiting.set(load.waiting)

    def close(self) -> None:
        """Give the metrics back while Triton is still there to take them, each before its family."""
        del self._running, self._waiting
        del self._running_family, self._waiting_family


def _gauge_family(name: str, description: str) -> Any:
    return pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.GAUGE)
