"""Responses of one request, through Triton."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from fathom_client import protocol
from fathom_server.backends.fathom.generate_request import GenerateRequest
from fathom_server.backends.fathom.responses import ResponseWriter
from fathom_server.engine.request import Piece
from fathom_server.errors import (
    CancelledRequestError,
    DeadlineError,
    EngineFailureError,
    InvalidRequestError,
    QueueFullError,
    RequestError,
    ShuttingDownError,
)

# names of pb_utils.TritonError's codes; Triton fills that class in only after this module is imported
_ERROR_CODES: Final = {
    InvalidRequestError: "INVALID_ARG",
    QueueFullError: "UNAVAILABLE",
    ShuttingDownError: "UNAVAILABLE",
    DeadlineError: "CANCELLED",
    CancelledRequestError: "CANCELLED",
    EngineFailureError: "INTERNAL",
}

# what a stream's reader knows the status by
_PREFIXES: Final = {
    QueueFullError: "UNAVAILABLE: ",
    ShuttingDownError: "UNAVAILABLE: ",
    CancelledRequestError: "CANCELLED: ",
    EngineFailureError: "INTERNAL: ",
}


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
        self._writer: ResponseWriter | None = None

    def describe(self, call: GenerateRequest, echo: str, token_bytes: Mapping[int, bytes]) -> None:
        """Take over what responses need of the call, the text that is to stand before the answer, and of the tokens."""
        self._writer = ResponseWriter(call, self._names, token_bytes, echo)

    def send(self, pieces: Sequence[Piece]) -> None:
        """See ``AnswerTransport.send``."""
        responses = self._responses.streamed(pieces)
        ends = pieces[-1].is_last
        for place, tensors in enumerate(responses, start=1):
            self._respond(_response(tensors), last=ends and place == len(responses))

    def send_whole(self, pieces: Sequence[Piece]) -> None:
        """See ``AnswerTransport.send_whole``."""
        self._respond(_response(self._responses.whole(pieces)), last=True)

    def send_tensors(self, tensors: Mapping[str, npt.NDArray[Any]], *, is_last: bool) -> None:
        """Send one response that somebody else has written."""
        self._respond(_response(tensors), last=is_last)

    def fail(self, error: RequestError) -> None:
        """See ``AnswerTransport.fail``."""
        prefix = protocol.DEADLINE_PREFIX if isinstance(error, DeadlineError) else _PREFIXES.get(type(error), "")
        code = getattr(pb_utils.TritonError, _ERROR_CODES[type(error)])
        triton_error = pb_utils.TritonError(f"{prefix}{error}", code)
        self._respond(pb_utils.InferenceResponse(output_tensors=[], error=triton_error), last=True)

    def is_cancelled(self) -> bool:
        """Whether the caller has left before the last response."""
        with self._lock:
            return not self._complete and bool(self._sender.is_cancelled())

    @property
    def _responses(self) -> ResponseWriter:
        if self._writer is None:
            raise RuntimeError("describe() must come before the first response")
        return self._writer

    def _respond(self, response: Any, *, last: bool) -> None:
        with self._lock:
            self._complete = last
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0)


def _response(tensors: Mapping[str, npt.NDArray[Any]]) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(name, value) for name, value in tensors.items()])
