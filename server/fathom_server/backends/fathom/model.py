"""Triton's adaptor of the engine: it translates requests, responses, errors and cancellations, nothing more."""

import gc
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from fathom_client import protocol
from fathom_server.backends.fathom.cancellation import CancellationWatch, WatchedRequest
from fathom_server.backends.fathom.drain_watch import DrainWatch
from fathom_server.backends.fathom.generate_request import (
    GenerateRequest,
    read_generate_request,
    refuse_unknown_parameters,
)
from fathom_server.backends.fathom.metrics_export import MetricsExport
from fathom_server.backends.fathom.observer import RequestObserver
from fathom_server.backends.fathom.outbox import Outbox, OutgoingAnswer
from fathom_server.backends.fathom.refusals import Refusals
from fathom_server.backends.fathom.request_outcome import ObservedAnswer
from fathom_server.backends.fathom.served_engine import open_engine
from fathom_server.backends.fathom.transport import TritonTransport
from fathom_server.errors import EngineFailureError, RequestError, ShuttingDownError
from fathom_server.json_log import configure_backend_log
from fathom_server.text.token_bytes import SpelledTokens
from fathom_server.text.tokenizer import TextTokenizer

logger: Final = logging.getLogger("fathom.backend")

_MICROSECONDS: Final = 1e6


@dataclass(frozen=True, slots=True)
class RequestOrigin:
    """What Triton knows of a request beside its tensors; ``timeout_us`` is 0 where it brings no deadline."""

    request_id: str
    client: str
    precision: str | None
    timeout_us: int
    trace_context: str | None

    @classmethod
    def of(cls, request: Any, parameters: dict[str, Any], trace_context: str | None) -> Self:
        """Read it from Triton's request, its parameters, and the span that Triton made for it."""
        precision = parameters.get(protocol.PRECISION_PARAMETER)
        return cls(
            request.request_id(),
            str(parameters.get(protocol.CLIENT_PARAMETER, "")),
            None if precision is None else str(precision),
            request.timeout(),
            trace_context,
        )


class TritonPythonModel:
    """One served LLM."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load graph and tokenizer, warm the engine up, begin to serve."""
        configure_backend_log()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a prompt comes alone: threads would only be woken
        folder = Path(args["model_repository"]) / args["model_version"]
        self._tokenizer = TextTokenizer.load(folder)
        self._token_bytes = SpelledTokens(self._tokenizer.tokenizer)
        self._engine, responses_per_s = open_engine(folder, self._tokenizer)
        self._refusals = Refusals()
        self._outbox = Outbox(responses_per_s)
        self._metrics = MetricsExport(self._engine, args["model_name"])
        self._observer = RequestObserver(args["model_name"])
        self._watch = CancellationWatch(self._engine, on_tick=self._metrics.refresh)
        # a grammar may take long to compile, and nobody else's request waits for that
        self._compilers = ThreadPoolExecutor(1, thread_name_prefix="fathom-grammars")
        self._drain = DrainWatch(on_end=self._engine.stop)
        self._engine.start()
        self._compilers.submit(self._engine.prepare_grammars)

    def execute(self, requests: list[Any]) -> None:
        """Hand each request to the engine; its answer is sent when it comes."""
        for request in requests:
            transport = TritonTransport(request)
            try:
                if self._drain.is_refusing:
                    raise ShuttingDownError("the server is stopping; send the request to another")
                parameters = json.loads(request.parameters() or "{}")
                refuse_unknown_parameters(parameters, known=(protocol.CLIENT_PARAMETER, protocol.PRECISION_PARAMETER))
                tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
                call = read_generate_request(tensors, self._tokenizer)
                origin = RequestOrigin.of(request, parameters, self._observer.context_of(request))
            except Exception as error:
                self._refuse(transport, request.request_id(), error)
                continue
            arguments = (call, transport, origin)
            if call.sampling.structured_outputs is None:
                self._submit(*arguments)
            else:
                self._compilers.submit(self._submit, *arguments)

    def finalize(self) -> None:
        """End whatever is still running and send the last responses."""
        self._compilers.shutdown()
        self._drain.close()
        self._engine.stop()
        self._watch.close()
        self._refusals.close()
        self._outbox.close()
        self._metrics.close()
        self._observer.close()
        # what Triton lent (senders, metrics) must be gone before its process is: a late destructor would crash the stub
        del self._drain, self._engine, self._watch, self._refusals, self._outbox, self._metrics, self._compilers
        gc.collect()

    def _submit(self, call: GenerateRequest, transport: TritonTransport, origin: RequestOrigin) -> None:
        try:
            echo = "" if call.exclude_input_in_output else self._tokenizer.decode(call.prompt_ids)
            transport.describe(call, echo, self._token_bytes)
            watched = WatchedRequest(transport)
            outgoing = OutgoingAnswer(
                self._outbox,
                transport,
                whole=not call.stream,
                on_end=lambda: self._end(watched, answer),
                on_broken=lambda: self._abandon(watched, answer),
            )
            answer = self._observer.observe(outgoing, origin.trace_context)
            watched.request = self._engine.submit(
                origin.request_id,
                call.prompt_ids,
                call.sampling,
                answer,
                origin.timeout_us / _MICROSECONDS if origin.timeout_us > 0 else None,
                priority=call.priority,
                client=origin.client,
                precision=origin.precision,
                bad_word_ids=call.bad_word_ids,
            )
            self._watch.add(watched)
            answer.begun(watched.request)
        except Exception as error:
            self._refuse(transport, origin.request_id, error)

    def _end(self, watched: WatchedRequest, answer: ObservedAnswer) -> None:
        self._watch.remove(watched)
        answer.sent()

    def _abandon(self, watched: WatchedRequest, answer: ObservedAnswer) -> None:
        if watched.request is not None:
            self._engine.cancel(watched.request)
        self._end(watched, answer)

    def _refuse(self, transport: TritonTransport, request_id: str, error: Exception) -> None:
        """Refuse a request; what is no refusal of ours is a fault, and is logged."""
        if not isinstance(error, RequestError):
            logger.error("request %s failed", request_id, exc_info=error)
            error = EngineFailureError(f"the request could not be read (id {request_id})")
        self._observer.refused(request_id, error)
        self._refusals.put(transport, error)
