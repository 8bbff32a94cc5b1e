"""Channels to one server or to several, for one event loop: ``_sync_connection`` with ``await``."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fathom_client import _channel
from fathom_client._attempts import Attempts
from fathom_client._call_times import note_received, note_sent
from fathom_client._channel import ChannelSettings, limit_s_of
from fathom_client._endpoints import Endpoint, EndpointPool
from fathom_client._status import CallContext, closed_client, error_of_status
from fathom_client._tasks import is_task_cancelled
from fathom_client._trace import Pairs, trace_metadata


@dataclass(frozen=True, slots=True)
class _Link:
    """One server's channel and the methods on it."""

    channel: aio.Channel
    stub: Any
    open_stream: Any


class AsyncConnection:
    """Every call goes through here. Raises FathomError. The channels belong to the event loop of the first call."""

    def __init__(self, urls: Sequence[str], settings: ChannelSettings, metadata: Pairs) -> None:
        self._pool = EndpointPool(urls)
        self._settings = settings
        self._retry = settings.retry
        self._metadata = metadata
        self._control_s = settings.timeout.control_s
        self._is_closed = False
        self._links: list[_Link] = []
        self._probes: set[asyncio.Task[None]] = set()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The servers."""
        return self._pool.endpoints

    def attempts(self, deadline_s: float | None) -> Attempts:
        """Choose a server for a new request."""
        for endpoint in () if self._is_closed else self._pool.due():
            probe = asyncio.ensure_future(self._probe(endpoint))
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)
        return Attempts(self._pool, self._retry, deadline_s)

    async def call(self, method: str, request: Any, context: CallContext, deadline_s: float | None) -> Any:
        """Call a unary method and return its response."""
        attempts = self.attempts(deadline_s)
        try:
            while True:
                try:
                    limit_s = limit_s_of(request, attempts)
                    response = await self._send(attempts.endpoint, method, request, context, limit_s)
                except grpc.RpcError as error:
                    failure = error_of_status(error, context.at(attempts.endpoint.url))
                    pause_s = attempts.pause_before_next(failure)
                    if pause_s is None:
                        raise failure from None
                    await asyncio.sleep(pause_s)
                else:
                    attempts.succeeded()
                    return response
        finally:
            attempts.release()

    async def ask(
        self, endpoint: Endpoint, method: str, request: Any, context: CallContext, limit_s: float | None
    ) -> Any:
        """Ask one server, without another attempt."""
        try:
            return await self._send(endpoint, method, request, context, limit_s)
        except grpc.RpcError as error:
            raise error_of_status(error, context.at(endpoint.url)) from None

    def open_stream(self, request: Any, context: CallContext, attempts: Attempts) -> Any:
        """Start one attempt of a streamed call; returns the running call."""
        open_stream = self._link(attempts.endpoint, context).open_stream
        self._settings.check_size(request)
        metadata = (*self._metadata, *trace_metadata())
        return open_stream(request, timeout=limit_s_of(request, attempts), metadata=metadata)

    async def close(self) -> None:
        """Hang up; calls that still run are cancelled."""
        self._is_closed = True
        for probe in self._probes:
            probe.cancel()
        for link in self._links:
            await link.channel.close(None)

    async def _send(
        self, endpoint: Endpoint, method: str, request: Any, context: CallContext, limit_s: float | None
    ) -> Any:
        call = getattr(self._link(endpoint, context).stub, method)
        self._settings.check_size(request)
        if isinstance(request, service_pb2.ModelInferRequest):
            note_sent()
        try:
            response = await call(request, timeout=limit_s, metadata=(*self._metadata, *trace_metadata()))
        except asyncio.CancelledError:
            if is_task_cancelled():
                raise
            raise closed_client(context) from None  # gRPC says so to whoever waits when another task hangs up
        note_received()
        return response

    async def _probe(self, endpoint: Endpoint) -> None:
        """Ask a server that was left out whether it is ready."""
        is_ready = False
        try:
            answer = await self._links[endpoint.index].stub.ServerReady(
                service_pb2.ServerReadyRequest(), timeout=self._control_s, metadata=self._metadata
            )
            is_ready = answer.ready
        except grpc.RpcError:
            pass  # no sign of life: what the question was for
        finally:
            (self._pool.recovered if is_ready else self._pool.failed)(endpoint)

    def _link(self, endpoint: Endpoint, context: CallContext) -> _Link:
        """The channel to a server; channels are made when the first is used: they belong to the loop that runs then."""
        if self._is_closed:
            raise closed_client(context)
        if not self._links:
            self._links = [_link(self._settings, each.url) for each in self._pool.endpoints]
        return self._links[endpoint.index]


def _link(settings: ChannelSettings, url: str) -> _Link:
    channel = settings.open_async(url)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    return _Link(channel, stub, channel.unary_stream(_channel.STREAM_METHOD, **_channel.STREAM_CODECS))
