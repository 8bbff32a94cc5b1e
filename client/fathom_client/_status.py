"""gRPC statuses and Triton's messages → the exceptions of ``fathom_client.errors``."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from fathom_client import protocol
from fathom_client._answer import Answer
from fathom_client._results import ModelInfo
from fathom_client.errors import (
    ClientClosedError,
    DeadlineExceededError,
    FathomError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RequestCancelledError,
    ServerError,
    ServerUnavailableError,
    StreamBrokenError,
)

_NO_HANDSHAKE: Final = ("tls handshake failed", "verification check failed", "handshake read failed")
_NO_CONNECTION: Final = (
    "all backends failing",
    "failed to connect",
    "errors resolving",
    "dns resolution",
    "name resolution",
)
_STATUS_PREFIX: Final = re.compile(r"^(UNKNOWN|UNAVAILABLE): ")
_UNKNOWN_MODEL: Final = "unknown model"
_DROPPED_CALL: Final = "CANCELLED"
"""What gRPC says, and no more, of a call that a server dropped because it stops; a cancellation of ours says so."""
_UNLOADED_MODEL: Final = "has no available versions"
_BROKEN_MODEL: Final = "stub process"
_DECOUPLED: Final = "decoupled transaction policy"
_REQUEST_ID: Final = re.compile(r"^\[request id: [^]]*\] ")
_PUSHBACK: Final = "grpc-retry-pushback-ms"
_NOT_LOADED: Final = "failed to load"
_NOT_EXPLICIT: Final = "explicit model load / unload is not allowed"
_TOO_LARGE: Final = "CLIENT: Received message larger than max"
_ENSEMBLE: Final = re.compile(r"^in ensemble '[^']*', ")
_NOT_GRPC: Final = "http2 header with status"


@dataclass(frozen=True, slots=True)
class CallContext:
    """Whom a call was for; it goes into every error."""

    url: str
    model: str | None = None
    request_id: str | None = None
    timeout_s: float | None = None

    def at(self, url: str) -> "CallContext":
        """The same call on another server."""
        return self if url == self.url else replace(self, url=url)


def error_of_status(error: Any, call: CallContext) -> FathomError:
    """Translate a ``grpc.RpcError`` of a sync or async call."""
    translated = _error(error.code().name, error.details() or "", call)
    if isinstance(translated, ServerUnavailableError):
        translated.retry_after_s = _retry_after_s(error.trailing_metadata())
    return translated


def error_of_message(message: str, call: CallContext) -> FathomError:
    """Translate the error message of a stream response: a model tells its status, of Triton's own its words do."""
    message = _ENSEMBLE.sub("", _REQUEST_ID.sub("", message))
    if message.startswith(protocol.DEADLINE_PREFIX):
        return _error("CANCELLED", message, call)
    prefix = next((each for each in protocol.STATUS_PREFIXES if message.startswith(each)), None)
    if prefix is not None:
        return _error(prefix.removesuffix(": "), message.removeprefix(prefix), call)
    lowered = message.lower()
    if _BROKEN_MODEL in lowered:
        return _error("INTERNAL", message, call)
    if _UNKNOWN_MODEL in lowered:
        return _error("NOT_FOUND", message, call)
    if "queue size" in lowered or "stopped accepting" in lowered or "server is stopping" in lowered:
        return _error("UNAVAILABLE", message, call)
    return _error("INVALID_ARGUMENT", message, call)


def may_be_tried_again(failure: FathomError) -> bool:
    """Whether a request that failed so, before anything came back, may be answered by another server or later.

    A Triton that stops unloads its models first, and says that they have no versions while it still takes requests.
    """
    if isinstance(failure, ModelNotFoundError):
        return _UNLOADED_MODEL in str(failure)
    return isinstance(failure, ServerUnavailableError) and failure.code == "UNAVAILABLE"


def broken_stream(answer: Answer, call: CallContext, cause: FathomError | None) -> StreamBrokenError:
    """Name an answer that began and did not end."""
    reason = "the server closed the stream without a final response" if cause is None else str(cause)
    return StreamBrokenError(
        f"the answer broke off after {answer.num_output_tokens} tokens: {reason}",
        code=None if cause is None else cause.code,
        model=call.model,
        request_id=call.request_id,
    )


def late_texts(call: CallContext) -> DeadlineExceededError:
    """Name a call of an encoder whose time was up before its last batch was sent."""
    return DeadlineExceededError(
        f"{call.model}: not all texts were answered within {call.timeout_s:g} s; allow more time or send fewer",
        code="DEADLINE_EXCEEDED",
        model=call.model,
        request_id=call.request_id,
    )


def closed_client(call: CallContext) -> ClientClosedError:
    """Name a call on a client that is closed."""
    return ClientClosedError(
        f"this client of {call.url} is closed; make a new one", model=call.model, request_id=call.request_id
    )


def locally_closed(call: CallContext) -> RequestCancelledError:
    """Name a stream that its reader closed before the end."""
    return RequestCancelledError(
        "the stream was closed before the answer's end",
        code="CANCELLED",
        model=call.model,
        request_id=call.request_id,
    )


def with_models(error: ModelNotFoundError, models: Sequence[ModelInfo]) -> ModelNotFoundError:
    """The same error, with the names of the models that the server has, or why this one is not loaded."""
    wanted = next((each for each in models if each.name == error.model), None)
    if wanted is not None:
        reason = f": {' '.join(wanted.reason.split())}" if wanted.reason else ""
        hint = f"it is in the repository and is {wanted.state or 'not loaded'}{reason}"
    else:
        names = ", ".join(sorted({each.name for each in models if each.is_ready})) or "none"
        hint = f"models that are ready: {names}"
    return ModelNotFoundError(f"{error}; {hint}", code=error.code, model=error.model, request_id=error.request_id)


def _error(code: str, details: str, call: CallContext) -> FathomError:
    kind: type[FathomError]
    details = _REQUEST_ID.sub("", details)
    model = "" if call.model is None else f"{call.model}: "
    if code == "CANCELLED" and details.startswith(protocol.DEADLINE_PREFIX):
        kind, code, message = DeadlineExceededError, "DEADLINE_EXCEEDED", details.removeprefix(protocol.DEADLINE_PREFIX)
    elif code == "DEADLINE_EXCEEDED":
        limit = "" if call.timeout_s is None else f" within {call.timeout_s:g} s"
        kind, message = DeadlineExceededError, f"no complete answer{limit} from {call.url}; allow more time or ask less"
    elif code == "CANCELLED" and details == _DROPPED_CALL:
        kind, code, model = ServerUnavailableError, "UNAVAILABLE", ""
        message = f"{call.url} dropped the request, for it is stopping; try again"
    elif code == "CANCELLED":
        kind, message = RequestCancelledError, f"the request was cancelled: {details}"
    elif code == "INVALID_ARGUMENT":
        kind, message = InvalidRequestError, details
    elif code == "UNIMPLEMENTED" and _DECOUPLED in details:
        kind, message = InvalidRequestError, f"this model generates and does not embed ({details})"
    elif code == "NOT_FOUND":
        kind, message = ModelNotFoundError, details
    elif code == "INTERNAL" and _NOT_LOADED in details:
        kind, message = InvalidRequestError, details
    elif _NOT_EXPLICIT in details:
        kind, message = InvalidRequestError, f"{details}; start the server with --model-control-mode=explicit"
    elif code == "UNAVAILABLE" and "queue" in details.lower():
        kind, message = OverloadedError, f"{details} (try again later)"
    elif code == "UNAVAILABLE":
        kind, message, model = ServerUnavailableError, _unavailable(details, call), ""
    elif code == "UNIMPLEMENTED" and _NOT_GRPC in details.lower():
        kind = ServerUnavailableError
        message, model = f"{call.url} speaks HTTP, but not Triton's gRPC ({details}); the gRPC port is often 8001", ""
    elif code == "RESOURCE_EXHAUSTED" and _TOO_LARGE in details:
        kind, message = ServerError, f"the answer is larger than limits.max_receive_bytes allows ({details})"
    else:
        kind, message = ServerError, f"the server failed with {code}: {details}"
    return kind(model + message, code=code, model=call.model, request_id=call.request_id)


def _retry_after_s(metadata: Any) -> float | None:
    """The server's advice when to try again; infinity for never (gRPC proposal A6, "pushback")."""
    advice = next((value for name, value in metadata or () if name == _PUSHBACK), None)
    if advice is None:
        return None
    return int(advice) / 1000 if re.fullmatch(r"\d{1,12}", str(advice)) else math.inf


def _unavailable(details: str, call: CallContext) -> str:
    reason = _STATUS_PREFIX.sub("", details.rpartition("last error: ")[2]).strip().rstrip(":")
    lowered = details.lower()
    if any(sign in lowered for sign in _NO_HANDSHAKE):
        return (
            f"TLS with {call.url} failed ({reason}); check tls.ca, tls.server_name, tls.certificate, and that the "
            "server encrypts"
        )
    if any(sign in lowered for sign in _NO_CONNECTION):
        remedy = "check the address, or start one with fathom-serve"
        if "socket closed" in lowered or "endpoint closing" in lowered:
            remedy = "check the address, and give tls if it encrypts"
        return f"no server answers at {call.url} ({reason}); {remedy}"
    return f"the server at {call.url} is not available: {details}"
