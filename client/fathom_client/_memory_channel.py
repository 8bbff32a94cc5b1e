"""gRPC's channels without a network: as much of them as the two clients use."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
from grpc import aio

Pairs = Iterable[tuple[str, str]]
Answer = Callable[[str, Any, Pairs], Iterator[Any]]
"""Method, request and metadata → responses; raises Status."""


class Status(grpc.RpcError):
    """A call's end that is not OK, as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        """The status."""
        return self._code

    def details(self) -> str:
        """Its message."""
        return self._details

    def trailing_metadata(self) -> Any:
        """None comes."""
        return ()


class _Call:
    """A call that runs: its responses are made when they are read. Cancelling may come from another thread."""

    def __init__(self, responses: Iterator[Any]) -> None:
        self._responses = responses
        self._is_cancelled = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._is_cancelled.is_set():
            raise Status(grpc.StatusCode.CANCELLED, "cancelled by the client")
        return next(self._responses)

    def cancel(self) -> None:
        self._is_cancelled.set()


class _AsyncCall(_Call):
    async def read(self) -> Any:
        return next(self, aio.EOF)  # type: ignore[attr-defined] # grpc-stubs do not know it


class _Future:
    """A unary call that is over when it begins."""

    def __init__(self, call: _Call) -> None:
        self._response: Any = None
        self._error: Status | None = None
        try:
            self._response = next(call)
        except Status as error:
            self._error = error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._response

    def exception(self) -> Status | None:
        return self._error

    def cancelled(self) -> bool:
        return False

    def cancel(self) -> None:
        """Too late."""

    def add_done_callback(self, callback: Callable[["_Future"], object]) -> None:
        callback(self)


class _Unary:
    """A unary method."""

    def __init__(self, channel: "MemoryChannel", method: str) -> None:
        self._channel = channel
        self._method = method

    def __call__(self, request: Any, timeout: float | None = None, metadata: Pairs = ()) -> Any:
        return self.future(request, timeout, metadata).result()

    def future(self, request: Any, timeout: float | None = None, metadata: Pairs = ()) -> _Future:
        return _Future(_Call(self._channel.responses(self._method, request, metadata)))


class _AsyncUnary(_Unary):
    async def __call__(self, request: Any, timeout: float | None = None, metadata: Pairs = ()) -> Any:
        return self.future(request, timeout, metadata).result()


class MemoryChannel:
    """A channel for threads, whose every method is answered by ``answer``."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._is_closed = False

    def unary_unary(self, method: str, *_: Any, **__: Any) -> Any:
        """A method with one response."""
        return _Unary(self, method)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """A method with many responses."""
        return lambda request, timeout=None, metadata=(): _Call(self.responses(method, request, metadata))

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """Methods that take a stream are not called: the clients open them with one request."""
        return None

    def close(self) -> Any:
        """Refuse calls from now on."""
        self._is_closed = True

    def responses(self, method: str, request: Any, metadata: Pairs) -> Iterator[Any]:
        """Begin a call; raises ValueError once the channel is closed, as gRPC does."""
        if self._is_closed:
            raise ValueError("Cannot invoke RPC on closed channel!")
        return self._answer(method.rpartition("/")[2], request, metadata)


class AsyncMemoryChannel(MemoryChannel):
    """A channel for asyncio, whose every method is answered by ``answer``."""

    def unary_unary(self, method: str, *_: Any, **__: Any) -> Any:
        """A method with one response."""
        return _AsyncUnary(self, method)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """A method with many responses."""
        return lambda request, timeout=None, metadata=(): _AsyncCall(self.responses(method, request, metadata))

    async def close(self, grace: float | None = None) -> None:
        """Refuse calls from now on."""
        self._is_closed = True
