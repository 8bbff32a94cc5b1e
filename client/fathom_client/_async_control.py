"""Health, metadata and the models of servers, for asyncio: ``_sync_control`` with ``await``."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from tritonclient.grpc import service_pb2

from fathom_client import _channel, _requests, _responses
from fathom_client._async_connection import AsyncConnection
from fathom_client._channel import ChannelSettings
from fathom_client._health import ReadinessWait, is_unreachable
from fathom_client._results import ModelConfig, ModelInfo, ModelMetadata, Readiness, ServerMetadata
from fathom_client._statistics import ModelStatistics, model_statistics
from fathom_client._status import CallContext, with_models
from fathom_client._timeouts import check_seconds
from fathom_client._trace import Pairs
from fathom_client.errors import FathomError, ModelNotFoundError


class AsyncServerControl:
    """The part of ``AsyncClient`` that asks about servers and their models.

    Of several servers one is asked, any that answers; whether they are ready is asked of all, and models are loaded and
    unloaded on all.
    """

    def __init__(self, urls: tuple[str, ...], settings: ChannelSettings, metadata: Pairs) -> None:
        self._description = _channel.describe(urls, settings, metadata)
        self._url = ",".join(urls)
        self._timeout = settings.timeout
        self._connection = AsyncConnection(urls, settings, metadata)

    async def is_live(self) -> bool:
        """Whether a server answers."""
        try:
            return await self._any("ServerLive", service_pb2.ServerLiveRequest(), "live")
        except FathomError as error:
            if is_unreachable(error):
                return False
            raise

    async def is_ready(self, model: str | None = None) -> bool:
        """Whether a server takes requests, for ``model`` or, without one, for every model in its repository."""
        try:
            return await self._is_ready(model)
        except FathomError as error:
            if is_unreachable(error):
                return False
            raise

    async def wait_until_ready(
        self,
        timeout_s: float = 60.0,
        model: str | None = None,
        *,
        progress: Callable[[Readiness], object] | None = None,
    ) -> None:
        """Return as soon as ``is_ready(model)``; raise DeadlineExceededError after ``timeout_s``, with what is not.

        ``progress`` is called after each look, with what was seen.
        """
        wait = ReadinessWait(self._url, timeout_s, model, progress)
        while True:
            try:
                if await self._is_ready(model):
                    wait.ready(await self.models() if progress else ())
                    return
                failure = wait.not_ready(await self.models())
            except FathomError as error:
                if not is_unreachable(error):
                    raise
                failure = wait.unreachable(error)
            pause_s = wait.pause()
            if pause_s is None:
                raise failure
            await asyncio.sleep(pause_s)

    async def models(self) -> tuple[ModelInfo, ...]:
        """Return every model of the server's repository, loaded or not."""
        return _responses.model_infos(await self._ask("RepositoryIndex", service_pb2.RepositoryIndexRequest()))

    async def server_metadata(self) -> ServerMetadata:
        """Return the server's name, version and extensions."""
        return _responses.server_metadata(await self._ask("ServerMetadata", service_pb2.ServerMetadataRequest()))

    async def model_metadata(self, model: str) -> ModelMetadata:
        """Return a model's inputs and outputs."""
        request = service_pb2.ModelMetadataRequest(name=_requests.check_model(model))
        return _responses.model_metadata(await self._ask("ModelMetadata", request, model))

    async def model_config(self, model: str) -> ModelConfig:
        """Return how a model is served."""
        request = service_pb2.ModelConfigRequest(name=_requests.check_model(model))
        return _responses.model_config(await self._ask("ModelConfig", request, model))

    async def statistics(self, model: str | None = None) -> tuple[ModelStatistics, ...]:
        """Return what the server has counted of a model, or of all that are loaded; one entry a version."""
        name = "" if model is None else _requests.check_model(model)
        return model_statistics(
            await self._ask("ModelStatistics", service_pb2.ModelStatisticsRequest(name=name), model)
        )

    async def load_model(self, model: str, *, timeout_s: float | None = None) -> None:
        """Load a model, and what an ensemble needs, or load it anew; returns when it is ready, on every server.

        Only servers that run with ``--model-control-mode=explicit`` do; others raise InvalidRequestError, and so does a
        model that cannot be loaded, with its reason. ``timeout_s`` is for each server, by default the client's.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=_requests.check_model(model))
        await self._order("RepositoryModelLoad", request, model, timeout_s)

    async def unload_model(self, model: str, *, with_dependents: bool = False, timeout_s: float | None = None) -> None:
        """Unload a model on every server, and with ``with_dependents`` the models of an ensemble; running requests end.

        Returns when no new requests are taken, see ``load_model``.
        """
        request = service_pb2.RepositoryModelUnloadRequest(model_name=_requests.check_model(model))
        request.parameters["unload_dependents"].bool_param = with_dependents
        await self._order("RepositoryModelUnload", request, model, timeout_s)

    async def close(self) -> None:
        """Hang up; requests that still run are cancelled."""
        await self._connection.close()

    async def _is_ready(self, model: str | None) -> bool:
        if model is None:
            return await self._any("ServerReady", service_pb2.ServerReadyRequest(), "ready")
        request = service_pb2.ModelReadyRequest(name=_requests.check_model(model))
        return await self._any("ModelReady", request, "ready", model)

    async def _any(self, method: str, request: Any, field: str, model: str | None = None) -> bool:
        """Whether one of the servers says yes; raises the last one's error if none answers."""
        failure, has_answered = None, False
        for endpoint in self._connection.endpoints:
            try:
                answer = await self._connection.ask(
                    endpoint, method, request, self._context(model), self._timeout.control_s
                )
            except FathomError as error:
                if not is_unreachable(error):
                    raise await self._explain(error) from None
                failure = error
            else:
                if getattr(answer, field):
                    return True
                has_answered = True
        if failure is not None and not has_answered:
            raise failure
        return False

    async def _order(self, method: str, request: Any, model: str, timeout_s: float | None) -> None:
        """Call a method on every server, one after the other."""
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        limit_s = self._timeout.request_s if timeout_s is None else timeout_s
        for endpoint in self._connection.endpoints:
            try:
                await self._connection.ask(endpoint, method, request, self._context(model, limit_s), limit_s)
            except FathomError as error:
                raise await self._explain(error) from None

    async def _ask(self, method: str, request: Any, model: str | None = None) -> Any:
        """Call a method of metadata on a server that answers."""
        deadline_s = time.monotonic() + self._timeout.control_s
        return await self._call(method, request, self._context(model), deadline_s)

    async def _call(self, method: str, request: Any, context: CallContext, deadline_s: float | None) -> Any:
        try:
            return await self._connection.call(method, request, context, deadline_s)
        except FathomError as error:
            raise await self._explain(error) from None

    def _context(self, model: str | None, limit_s: float | None = None) -> CallContext:
        return CallContext(self._url, model, timeout_s=limit_s or self._timeout.control_s)

    async def _explain(self, error: FathomError) -> FathomError:
        """Add the names of the models that are there to an error about one that is not."""
        if not isinstance(error, ModelNotFoundError):
            return error
        try:
            return with_models(error, await self.models())
        except FathomError:
            return error  # the hint is not worth another error
