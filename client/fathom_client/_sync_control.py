"""Health, metadata and the models of servers, for threads."""

import time
from collections.abc import Callable
from typing import Any

from tritonclient.grpc import service_pb2

from fathom_client import _channel, _requests, _responses
from fathom_client._channel import ChannelSettings
from fathom_client._health import ReadinessWait, is_unreachable
from fathom_client._results import ModelConfig, ModelInfo, ModelMetadata, Readiness, ServerMetadata
from fathom_client._statistics import ModelStatistics, model_statistics
from fathom_client._status import CallContext, with_models
from fathom_client._sync_connection import Connection
from fathom_client._timeouts import check_seconds
from fathom_client._trace import Pairs
from fathom_client.errors import FathomError, ModelNotFoundError


class ServerControl:
    """The part of ``Client`` that asks about servers and their models.

    Of several servers one is asked, any that answers; whether they are ready is asked of all, and models are loaded and
    unloaded on all.
    """

    def __init__(self, urls: tuple[str, ...], settings: ChannelSettings, metadata: Pairs) -> None:
        self._description = _channel.describe(urls, settings, metadata)
        self._url = ",".join(urls)
        self._timeout = settings.timeout
        self._connection = Connection(urls, settings, metadata)

    def is_live(self) -> bool:
        """Whether a server answers."""
        try:
            return self._any("ServerLive", service_pb2.ServerLiveRequest(), "live")
        except FathomError as error:
            if is_unreachable(error):
                return False
            raise

    def is_ready(self, model: str | None = None) -> bool:
        """Whether a server takes requests, for ``model`` or, without one, for every model in its repository."""
        try:
            return self._is_ready(model)
        except FathomError as error:
            if is_unreachable(error):
                return False
            raise

    def wait_until_ready(
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
                if self._is_ready(model):
                    wait.ready(self.models() if progress else ())
                    return
                failure = wait.not_ready(self.models())
            except FathomError as error:
                if not is_unreachable(error):
                    raise
                failure = wait.unreachable(error)
            pause_s = wait.pause()
            if pause_s is None:
                raise failure
            time.sleep(pause_s)

    def models(self) -> tuple[ModelInfo, ...]:
        """Return every model of the server's repository, loaded or not."""
        return _responses.model_infos(self._ask("RepositoryIndex", service_pb2.RepositoryIndexRequest()))

    def server_metadata(self) -> ServerMetadata:
        """Return the server's name, version and extensions."""
        return _responses.server_metadata(self._ask("ServerMetadata", service_pb2.ServerMetadataRequest()))

    def model_metadata(self, model: str) -> ModelMetadata:
        """Return a model's inputs and outputs."""
        request = service_pb2.ModelMetadataRequest(name=_requests.check_model(model))
        return _responses.model_metadata(self._ask("ModelMetadata", request, model))

    def model_config(self, model: str) -> ModelConfig:
        """Return how a model is served."""
        request = service_pb2.ModelConfigRequest(name=_requests.check_model(model))
        return _responses.model_config(self._ask("ModelConfig", request, model))

    def statistics(self, model: str | None = None) -> tuple[ModelStatistics, ...]:
        """Return what the server has counted of a model, or of all that are loaded; one entry a version."""
        request = service_pb2.ModelStatisticsRequest(name="" if model is None else _requests.check_model(model))
        return model_statistics(self._ask("ModelStatistics", request, model))

    def load_model(self, model: str, *, timeout_s: float | None = None) -> None:
        """Load a model, and what an ensemble needs, or load it anew; returns when it is ready, on every server.

        Only servers that run with ``--model-control-mode=explicit`` do; others raise InvalidRequestError, and so does a
        model that cannot be loaded, with its reason. ``timeout_s`` is for each server, by default the client's.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=_requests.check_model(model))
        self._order("RepositoryModelLoad", request, model, timeout_s)

    def unload_model(self, model: str, *, with_dependents: bool = False, timeout_s: float | None = None) -> None:
        """Unload a model on every server, and with ``with_dependents`` the models of an ensemble; running requests end.

        Returns when no new requests are taken, see ``load_model``.
        """
        request = service_pb2.RepositoryModelUnloadRequest(model_name=_requests.check_model(model))
        request.parameters["unload_dependents"].bool_param = with_dependents
        self._order("RepositoryModelUnload", request, model, timeout_s)

    def close(self) -> None:
        """Hang up; requests that still run are cancelled."""
        self._connection.close()

    def _is_ready(self, model: str | None) -> bool:
        if model is None:
            return self._any("ServerReady", service_pb2.ServerReadyRequest(), "ready")
        request = service_pb2.ModelReadyRequest(name=_requests.check_model(model))
        return self._any("ModelReady", request, "ready", model)

    def _any(self, method: str, request: Any, field: str, model: str | None = None) -> bool:
        """Whether one of the servers says yes; raises the last one's error if none answers."""
        failure, has_answered = None, False
        for endpoint in self._connection.endpoints:
            try:
                answer = self._connection.ask(endpoint, method, request, self._context(model), self._timeout.control_s)
            except FathomError as error:
                if not is_unreachable(error):
                    raise self._explain(error) from None
                failure = error
            else:
                if getattr(answer, field):
                    return True
                has_answered = True
        if failure is not None and not has_answered:
            raise failure
        return False

    def _order(self, method: str, request: Any, model: str, timeout_s: float | None) -> None:
        """Call a method on every server, one after the other."""
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        limit_s = self._timeout.request_s if timeout_s is None else timeout_s
        for endpoint in self._connection.endpoints:
            try:
                self._connection.ask(endpoint, method, request, self._context(model, limit_s), limit_s)
            except FathomError as error:
                raise self._explain(error) from None

    def _ask(self, method: str, request: Any, model: str | None = None) -> Any:
        """Call a method of metadata on a server that answers."""
        deadline_s = time.monotonic() + self._timeout.control_s
        return self._call(method, request, self._context(model), deadline_s)

    def _call(self, method: str, request: Any, context: CallContext, deadline_s: float | None) -> Any:
        try:
            return self._connection.call(method, request, context, deadline_s)
        except FathomError as error:
            raise self._explain(error) from None

    def _context(self, model: str | None, limit_s: float | None = None) -> CallContext:
        return CallContext(self._url, model, timeout_s=limit_s or self._timeout.control_s)

    def _explain(self, error: FathomError) -> FathomError:
        """Add the names of the models that are there to an error about one that is not."""
        if not isinstance(error, ModelNotFoundError):
            return error
        try:
            return with_models(error, self.models())
        except FathomError:
            return error  # the hint is not worth another error
