"""The server's exceptions, one tree.

FathomServerError
├── SettingsError            a file or flag of the deployment is wrong
├── LaunchError              Triton cannot be found, started or made ready
│   └── NotReadyError            it was started, and a model or port kept it from being ready
├── DeviceError              the GPU or its driver refused a call
└── RequestError             one request cannot be served; the engine goes on
    ├── InvalidRequestError      the caller got something wrong (INVALID_ARGUMENT)
    ├── QueueFullError           no room in the queue now; try again (UNAVAILABLE)
    ├── ShuttingDownError        the server is draining; try another (UNAVAILABLE)
    ├── DeadlineError            the answer would come too late (DEADLINE_EXCEEDED)
    ├── CancelledRequestError    the caller left (CANCELLED)
    └── EngineFailureError       a fault of ours, logged with the request's id (INTERNAL)
"""


class FathomServerError(Exception):
    """Base of everything that the server raises on purpose."""


class SettingsError(FathomServerError):
    """A file or flag of the deployment is wrong."""


class LaunchError(FathomServerError):
    """Triton cannot be found, started or made ready."""


class NotReadyError(LaunchError):
    """Triton was started, and did not become ready."""


class DeviceError(FathomServerError):
    """The GPU or its driver refused a call."""


class RequestError(FathomServerError):
    """One request cannot be served; the engine goes on."""


class InvalidRequestError(RequestError):
    """The caller got something wrong."""


class QueueFullError(RequestError):
    """The queue is full now; the same request may be tried again."""


class ShuttingDownError(RequestError):
    """The server is draining and takes no new work."""


class DeadlineError(RequestError):
    """The answer would come after its deadline."""


class CancelledRequestError(RequestError):
    """The caller left before the answer was complete."""


class EngineFailureError(RequestError):
    """A fault of the engine's own; it is logged with the request's id."""
