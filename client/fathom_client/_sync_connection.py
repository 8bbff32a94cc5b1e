"""Channels to one server or to several, for threads: calls that pass over a server which does not take them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fathom_client import _channel
from fathom_client._attempts import Attempts
from fathom_client._call_times import note_received, note_sent
from fathom_client._channel import ChannelSettings, limit_s_of
from fathom_client._endpoints import Endpoint, EndpointPool
from fathom_client._status import CallContext, closed_client, error_of_status
from fathom_client._trace import Pairs, trace_metadata
from fathom_client.errors import FathomError


@dataclass(frozen=True, slots=True)
class _Link:
    """One server's channel and the methods on it."""

    channel: grpc.Channel
    stub: Any
    open_stream: Any


class PendingCall:
    """A unary call that runs; ``result`` waits for it, and tries again what may be tried again."""

    def __init__(
        self, connection: "Connection", method: str, request: Any, context: CallContext, attempts: Attempts
    ) -> None:
        self._connection = connection
        self._arguments = method, request, context
        self._attempts = attempts
        self._future = connection.send(attempts, *self._arguments)

    def result(self) -> Any:
        """Return the response; raises FathomError."""
        _, _, context = self._arguments
        try:
            while True:
                try:
                    response = self._future.result()
                    note_received()
                except grpc.RpcError as error:
                    self._connection.pause(error_of_status(error, self._at(context)), self._attempts)
                    self._future = self._connection.send(self._attempts, *self._arguments)
                except grpc.FutureCancelledError:
                    raise closed_client(context) from None
                else:
                    self._attempts.succeeded()
                    return response
        finally:
            self.cancel()  # of effect where the wait was broken off, as by Ctrl-C

    def cancel(self) -> None:
        """Give the call up, if it still runs."""
        self._future.cancel()
        self._attempts.release()

    def _at(self, context: CallContext) -> CallContext:
        return context.at(self._attempts.endpoint.url)


class Connection:
    """Every call goes through here. Raises FathomError."""

    def __init__(self, urls: Sequence[str], settings: ChannelSettings, metadata: Pairs) -> None:
        self._pool = EndpointPool(urls)
        self._settings = settings
        self._retry = settings.retry
        self._metadata = metadata
        self._control_s = settings.timeout.control_s
        self._is_closed = False
        self._links = [_link(settings, url) for url in urls]

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The servers."""
        return self._pool.endpoints

    def attempts(self, deadline_s: float | None) -> Attempts:
        """Choose a server for a new request."""
        self._probe()
        return Attempts(self._pool, self._retry, deadline_s)

    def call(self, method: str, request: Any, context: CallContext, deadline_s: float | None) -> Any:
        """Call a unary method and return its response."""
        attempts = self.attempts(deadline_s)
        try:
            while True:
                try:
                    call = self._method(attempts.endpoint, method)
                    response = self._start(call, request, context, limit_s_of(request, attempts))
                    note_received()
                except grpc.RpcError as error:
                    self.pause(error_of_status(error, context.at(attempts.endpoint.url)), attempts)
                else:
                    attempts.succeeded()
                    return response
        finally:
            attempts.release()

    def begin(self, method: str, request: Any, context: CallContext, deadline_s: float | None) -> PendingCall:
        """Call a unary method and return at once."""
        return PendingCall(self, method, request, context, self.attempts(deadline_s))

    def send(self, attempts: Attempts, method: str, request: Any, context: CallContext) -> Any:
        """Start one attempt of a unary call; returns its future."""
        call = self._method(attempts.endpoint, method).future
        return self._start(call, request, context, limit_s_of(request, attempts))

    def ask(self, endpoint: Endpoint, method: str, request: Any, context: CallContext, limit_s: float | None) -> Any:
        """Ask one server, without another attempt."""
        try:
            return self._start(self._method(endpoint, method), request, context, limit_s)
        except grpc.RpcError as error:
            raise error_of_status(error, context.at(endpoint.url)) from None

    def open_stream(self, request: Any, context: CallContext, attempts: Attempts) -> Any:
        """Start one attempt of a streamed call; returns the running call."""
        call = self._links[attempts.endpoint.index].open_stream
        return self._start(call, request, context, limit_s_of(request, attempts))

    def close(self) -> None:
        """Hang up; calls that still run are cancelled."""
        self._is_closed = True
        for link in self._links:
            link.channel.close()

    @staticmethod
    def pause(failure: FathomError, attempts: Attempts) -> None:
        """Wait until the next attempt; raises the failure where there is none."""
        pause_s = attempts.pause_before_next(failure)
        if pause_s is None:
            raise failure from None
        if pause_s:
            time.sleep(pause_s)

    def _method(self, endpoint: Endpoint, method: str) -> Any:
        return getattr(self._links[endpoint.index].stub, method)

    def _start(self, call: Any, request: Any, context: CallContext, limit_s: float | None, further: Pairs = ()) -> Any:
        if self._is_closed:
            raise closed_client(context)
        self._settings.check_size(request)
        if isinstance(request, service_pb2.ModelInferRequest):
            note_sent()
        try:
            return call(request, timeout=limit_s, metadata=(*self._metadata, *trace_metadata(), *further))
        except ValueError:  # gRPC's word for a channel that another thread closed just now
            raise closed_client(context) from None

    def _probe(self) -> None:
        """Ask servers that were left out, and whose time has come, whether they are ready; nobody waits for it."""
        for endpoint in () if self._is_closed else self._pool.due():
            try:
                future = self._links[endpoint.index].stub.ServerReady.future(
                    service_pb2.ServerReadyRequest(), timeout=self._control_s, metadata=self._metadata
                )
            except ValueError:  # closed just now
                return
            future.add_done_callback(lambda done, asked=endpoint: self._learn(asked, done))

    def _learn(self, endpoint: Endpoint, done: Any) -> None:
        if not done.cancelled() and done.exception() is None and done.result().ready:
            self._pool.recovered(endpoint)
        else:
            self._pool.failed(endpoint)


def _link(settings: ChannelSettings, url: str) -> _Link:
    channel = settings.open(url)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    return _Link(channel, stub, channel.unary_stream(_channel.STREAM_METHOD, **_channel.STREAM_CODECS))
