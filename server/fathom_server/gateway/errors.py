"""What an HTTP caller is told when a request is not served: OpenAI's error object, a status, and when to try again.

ApiError
├── InvalidApiRequestError     the request is wrong (400)
├── AuthenticationError        no key, or one that is not known (401)
├── PermissionDeniedError      the key is known and may not do this (403)
├── UnknownModelError          no model of this name, or of this kind (404)
├── UnknownPathError           no such endpoint (404)
├── MethodNotAllowedError      the endpoint has not this method (405)
├── SlowRequestError           the request did not arrive in time (408)
├── BodyTooLargeError          the body is larger than is taken (413)
├── MediaTypeError             the body is not JSON by its content type (415)
├── HeadTooLargeError          the headers are larger than is taken (431)
├── RateLimitError             too many requests, or tokens, for now (429)
├── UnavailableError           the server takes no work now: full, starting, or stopping (503)
├── LateAnswerError            the answer did not come in time (504)
└── GatewayFaultError          a fault of the gateway's or the server's own (500)
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from fathom_client.errors import (
    DeadlineExceededError,
    FathomError,
    InvalidArgumentError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ProtocolError,
    RequestCancelledError,
    ServerUnavailableError,
    StreamBrokenError,
)
from fathom_server.errors import FathomServerError

logger: Final = logging.getLogger("fathom.gateway")

BUSY_RETRY_S: Final = 1.0
AWAY_RETRY_S: Final = 5.0
"""When to try again where the server's queue is full, and where it is starting, stopping or gone."""


class ApiError(FathomServerError):
    """Base of every refusal over HTTP. ``param`` names the field that is wrong; ``retry_after_s`` when to try again."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self._headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        if self.retry_after_s is None:
            return self._headers
        return {**self._headers, "Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


class InvalidApiRequestError(ApiError):
    """The request is wrong; the message says what would do."""

    status = 400
    type = "invalid_request_error"


class AuthenticationError(ApiError):
    """No API key came, or one that is not known."""

    status = 401
    type = "authentication_error"


class PermissionDeniedError(ApiError):
    """The key is known and may not do this."""

    status = 403
    type = "permission_error"


class UnknownModelError(ApiError):
    """There is no model of this name, or it cannot do what the endpoint does."""

    status = 404
    type = "invalid_request_error"


class UnknownPathError(ApiError):
    """There is no such endpoint."""

    status = 404
    type = "invalid_request_error"


class MethodNotAllowedError(ApiError):
    """The endpoint has not this method."""

    status = 405
    type = "invalid_request_error"


class SlowRequestError(ApiError):
    """The request did not arrive in time."""

    status = 408
    type = "invalid_request_error"


class BodyTooLargeError(ApiError):
    """The body is larger than is taken."""

    status = 413
    type = "invalid_request_error"


class MediaTypeError(ApiError):
    """The body is not JSON by its content type."""

    status = 415
    type = "invalid_request_error"


class HeadTooLargeError(ApiError):
    """The headers are larger than is taken."""

    status = 431
    type = "invalid_request_error"


class RateLimitError(ApiError):
    """Too many requests, or tokens, for now."""

    status = 429
    type = "rate_limit_error"


class UnavailableError(ApiError):
    """The server takes no work now: it is full, starting, or stopping."""

    status = 503
    type = "server_error"


class LateAnswerError(ApiError):
    """The answer did not come in time."""

    status = 504
    type = "server_error"


class GatewayFaultError(ApiError):
    """A fault of the gateway's own, or of the server's."""


_OF_STATUS: Final[dict[int, type[ApiError]]] = {
    404: UnknownPathError,
    405: MethodNotAllowedError,
    413: BodyTooLargeError,
    415: MediaTypeError,
}


def api_error(error: Exception) -> ApiError:
    """The refusal that an exception means to the caller. A fault is logged here, and not told in detail."""
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            return _invalid_body(error.errors())
        case HTTPException():
            kind = _OF_STATUS.get(error.status_code, InvalidApiRequestError)
            return kind(_detail(error), headers=error.headers)
        case FathomError():
            return _of_client(error)
        case _:
            logger.error("a request failed", exc_info=error)
            return GatewayFaultError("the gateway failed to serve this request; its log says why")


def error_response(error: Exception) -> JSONResponse:
    """The HTTP answer to a request that ends with an exception."""
    refusal = api_error(error)
    return JSONResponse(refusal.body(), refusal.status, refusal.headers())


def _of_client(error: FathomError) -> ApiError:
    match error:
        case InvalidArgumentError() | InvalidRequestError():
            return InvalidApiRequestError(str(error))
        case ModelNotFoundError():
            return UnknownModelError(str(error), param="model", code="model_not_found")
        case OverloadedError():
            return UnavailableError(str(error), code="overloaded", retry_after_s=BUSY_RETRY_S)
        case ServerUnavailableError():
            logger.warning("Triton is not available: %s", error)
            return UnavailableError(
                "the model server is not available now; try again later", code="unavailable", retry_after_s=AWAY_RETRY_S
            )
        case DeadlineExceededError():
            return LateAnswerError("the answer did not come in time; ask for less", code="deadline_exceeded")
        case RequestCancelledError() | StreamBrokenError():
            logger.warning("an answer broke off: %s", error)
            return UnavailableError("the answer broke off; try again", code="broken", retry_after_s=BUSY_RETRY_S)
        case ProtocolError():
            logger.error("a model answers something else than its kind does: %s", error)
            return GatewayFaultError("the model's answer could not be read; the gateway's log says why")
        case _:
            logger.error("the server failed: %s", error)
            return GatewayFaultError("the model server failed to serve this request; the gateway's log says why")


def _invalid_body(faults: Sequence[Any]) -> InvalidApiRequestError:
    """The fault of a body that lies deepest, with the field's path as OpenAI writes it (``messages[0].content``)."""
    # of a union's members the one that was meant: it was read furthest, and what is there is of the right type
    fault = max(faults, key=lambda each: (len(each["loc"]), not each["type"].endswith("_type")))
    place = [part for part in fault["loc"] if part != "body"]
    if fault["type"] == "json_invalid":
        return InvalidApiRequestError(f"the body is not JSON: {fault['ctx']['error']} at byte {place[0]}")
    param = _path(place)
    if fault["type"] == "extra_forbidden":
        return InvalidApiRequestError(
            f"{param} is not a field that this endpoint takes; leave it out", param=param, code="unknown_parameter"
        )
    if fault["type"] == "missing":
        what = f"{param} is missing" if param else "the body is missing"
        return InvalidApiRequestError(f"{what}; it is required", param=param or None, code="missing_required_parameter")
    if fault["type"] == "none_required":
        return InvalidApiRequestError(
            f"{param} is not supported; leave it out", param=param, code="unsupported_parameter"
        )
    what = re.sub(r"^(Value|Assertion) error, ", "", fault["msg"])
    if param:
        return InvalidApiRequestError(f"{param}: {what}", param=param, code="invalid_value")
    field = re.match(r"[a-z]+_[a-z_]+\b", what)  # several fields contradict each other: the first that is named
    return InvalidApiRequestError(what, param=None if field is None else field[0], code="invalid_value")


def _path(place: Sequence[str | int]) -> str:
    """A place in a body, without the names by which pydantic tells the members of a union apart."""
    path = ""
    for position, part in enumerate(place):
        if isinstance(part, int):
            path += f"[{part}]"
        elif not _is_tag(place, position) and re.fullmatch(r"[a-z][a-z0-9_]*", part) and part not in _UNION_MEMBERS:
            path += f".{part}" if path else part
    return path


def _is_tag(place: Sequence[str | int], position: int) -> bool:
    """Whether a part of a place is a role, or a format's type, by which pydantic tells what stands there."""
    before = [None, None, *place][position : position + 2]
    return before[1] == "response_format" or (before[0] == "messages" and isinstance(before[1], int))


_UNION_MEMBERS: Final = frozenset({"str", "int", "float", "bool", "dict", "list", "none"})


def _detail(error: HTTPException) -> str:
    if error.status_code == 404:
        return "there is no such endpoint; see /docs or /openapi.json for those that there are"
    return str(error.detail)
