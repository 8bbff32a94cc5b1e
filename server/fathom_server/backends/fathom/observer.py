"""Where requests that have ended are told of: the log, and a collector of traces."""

import logging
import os
from typing import Any, Final

from fathom_server.backends.fathom.request_outcome import ObservedAnswer, RequestOutcome
from fathom_server.engine.request import AnswerSink
from fathom_server.json_log import FIELDS, REQUEST_LOGGER
from fathom_server.tracing import ENDPOINT_VARIABLE, ENGINE_SERVICE, tracer_provider

_requests: Final = logging.getLogger(REQUEST_LOGGER)


class RequestObserver:
    """Observes one model's requests; it traces where fathom-serve was given a collector (``--otlp-endpoint``)."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._spans = None
        endpoint = os.environ.get(ENDPOINT_VARIABLE)
        if endpoint:
            from fathom_server.backends.fathom.request_spans import EngineSpans

            self._spans = EngineSpans(tracer_provider(endpoint, ENGINE_SERVICE))

    def context_of(self, request: Any) -> str | None:
        """The span that Triton made for a request (a JSON object of W3C's headers); None where it is not traced."""
        context: str | None = None if self._spans is None else request.trace().get_context()
        return context or None

    def observe(self, sink: AnswerSink, triton_context: str | None) -> ObservedAnswer:
        """Put an observer between the engine and where an answer goes."""
        return ObservedAnswer(sink, self._model, lambda outcome: self._tell(outcome, triton_context))

    def refused(self, request_id: str, error: Exception) -> None:
        """Log a request that the engine has not taken."""
        fields = {"request_id": request_id, "model": self._model, "error": str(error)}
        _requests.info("refused", extra={FIELDS: fields})

    def close(self) -> None:
        """Send the last spans."""
        if self._spans is not None:
            self._spans.close()

    def _tell(self, outcome: RequestOutcome, triton_context: str | None) -> None:
        if _requests.isEnabledFor(logging.INFO):
            _requests.info("request", extra={FIELDS: _fields(outcome)})
        if self._spans is not None and triton_context is not None:
            self._spans.write(outcome, triton_context)


def _fields(outcome: RequestOutcome) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "request_id": outcome.request_id,
        "model": outcome.model,
        "input_tokens": outcome.input_tokens,
        "cached_tokens": outcome.cached_tokens,
        "output_tokens": outcome.output_tokens,
        "finish_reasons": outcome.finish_reasons,
        "duration_ms": _ms(outcome.ended - outcome.created),
    }
    fields |= {f"{name}_ms": _ms(ended - begun) for name, begun, ended in outcome.phases()}
    if outcome.error is not None:
        fields["error"] = outcome.error
    return fields


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
