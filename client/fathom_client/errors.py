"""The client's exceptions, one tree.

FathomError
├── InvalidArgumentError      an argument is wrong; found here, nothing was sent (also a ValueError)
├── ClientClosedError         the client was closed before
├── InvalidRequestError       the server refuses the request (INVALID_ARGUMENT)
├── ModelNotFoundError        the server has no such model, or it is not loaded (NOT_FOUND)
├── DeadlineExceededError     the answer did not come in time (DEADLINE_EXCEEDED)
├── RequestCancelledError     the request was cancelled, by this side or by the server (CANCELLED)
├── ServerUnavailableError    no server answers, or it takes no requests now (UNAVAILABLE)
│   └── OverloadedError           its queue is full; the same request may be tried again
├── ServerError               a fault of the server's own (INTERNAL and every other status)
├── StreamBrokenError         the answer broke off: it began, and its end never came
└── ProtocolError             the server answered something that the protocol does not have
"""


class FathomError(Exception):
    """Base of everything that the client raises on purpose.

    ``code`` is the gRPC status by name (``"UNAVAILABLE"``), None where no status came; ``model`` and ``request_id``
    are those of the request, None where there was none.
    """

    def __init__(
        self, message: str, *, code: str | None = None, model: str | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.model = model
        self.request_id = request_id


class InvalidArgumentError(FathomError, ValueError):
    """An argument is wrong; nothing was sent."""


class ClientClosedError(FathomError):
    """The client was closed before; make a new one."""


class InvalidRequestError(FathomError):
    """The server refuses the request."""


class ModelNotFoundError(FathomError):
    """The server has no such model, or it is not loaded."""


class DeadlineExceededError(FathomError):
    """The answer did not come in time."""


class RequestCancelledError(FathomError):
    """The request was cancelled, by this side or by the server."""


class ServerUnavailableError(FathomError):
    """No server answers, or it takes no requests now.

    ``retry_after_s``: in so many seconds the server wants to be asked again, infinity for never; None where it did not
    say.
    """

    retry_after_s: float | None = None


class OverloadedError(ServerUnavailableError):
    """The server's queue is full; the same request may be tried again."""


class ServerError(FathomError):
    """A fault of the server's own."""


class StreamBrokenError(FathomError):
    """The answer began and broke off: its end never came."""


class ProtocolError(FathomError):
    """The server answered something that the protocol does not have."""
