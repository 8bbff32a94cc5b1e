"""Clients without a server, for an application's own tests.

    from fathom_client import Client, OverloadedError
    from fathom_client.testing import MemoryTransport, ScriptedEmbedder, ScriptedGenerator

    chat = ScriptedGenerator("Hello!", ["Hel", "lo"], OverloadedError("the queue is full"))
    transport = MemoryTransport({"chat": chat, "minilm": ScriptedEmbedder(lambda text: [len(text), 1.0])})
    with Client(transport=transport) as client:
        assert client.generate("chat", "Hi").text == "Hello!"
        assert chat.requests[0].text == "Hi"

Requests and answers are the real ones; only the network is left out. ``MemoryTransport`` serves ``Client`` and
``AsyncClient`` alike.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

import grpc
from grpc import aio
from tritonclient.grpc import service_pb2

from fathom_client._memory_channel import AsyncMemoryChannel, MemoryChannel, Pairs, Status
from fathom_client._scripted_models import (
    ReceivedRequest,
    ScriptedClassifier,
    ScriptedEmbedder,
    ScriptedGenerator,
    ScriptedModel,
    ScriptedReranker,
    ScriptedTokenizer,
)
from fathom_client.errors import (
    DeadlineExceededError,
    FathomError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RequestCancelledError,
    ServerUnavailableError,
    StreamBrokenError,
)

__all__ = [
    "MemoryTransport",
    "ReceivedRequest",
    "ScriptedClassifier",
    "ScriptedEmbedder",
    "ScriptedGenerator",
    "ScriptedModel",
    "ScriptedReranker",
    "ScriptedTokenizer",
]

_CODES: Final = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFoundError: grpc.StatusCode.NOT_FOUND,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    RequestCancelledError: grpc.StatusCode.CANCELLED,
    ServerUnavailableError: grpc.StatusCode.UNAVAILABLE,
    StreamBrokenError: grpc.StatusCode.UNAVAILABLE,
}


class MemoryTransport:
    """Scripted models by name, in place of a server: ``Client(transport=MemoryTransport({...}))``.

    All are loaded; ``load_model`` and ``unload_model`` change that. What a script raises arrives as a server's error
    does: the error's class, with the message in the words of the client.
    """

    def __init__(self, models: Mapping[str, ScriptedModel]) -> None:
        self._models = dict(models)
        self._loaded = set(models)
        self._succeeded: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"MemoryTransport({sorted(self._models)})"

    def open(self, url: str) -> grpc.Channel:
        """Open a channel for ``Client``; it has what the client uses of gRPC's."""
        return cast("grpc.Channel", MemoryChannel(self._answer))

    def open_async(self, url: str) -> aio.Channel:
        """Open a channel for ``AsyncClient``; it has what the client uses of gRPC's."""
        return cast("aio.Channel", AsyncMemoryChannel(self._answer))

    def _answer(self, method: str, request: Any, metadata: Pairs) -> Iterator[Any]:
        answer = getattr(self, f"_{method}", None)
        if answer is None:
            raise Status(grpc.StatusCode.UNIMPLEMENTED, f"no method {method}")
        try:
            yield from answer(request, metadata)
        except FathomError as error:
            raise _status(error) from error

    def _model(self, name: str) -> ScriptedModel:
        if name not in self._loaded:
            raise Status(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        return self._models[name]

    @contextmanager
    def _counting(self, name: str) -> Iterator[None]:
        try:
            yield
        except FathomError:
            self._failed[name] += 1
            raise
        self._succeeded[name] += 1

    # Triton's methods by their names in the service.

    def _ModelStreamInfer(self, request: Any, metadata: Pairs) -> Iterator[Any]:  # noqa: N802
        model = self._model(request.model_name)
        if not isinstance(model, ScriptedGenerator):
            raise Status(grpc.StatusCode.INVALID_ARGUMENT, f"unexpected inputs for {request.model_name}")
        with self._counting(request.model_name):
            for response in model.stream(request, metadata):
                yield service_pb2.ModelStreamInferResponse(infer_response=response)

    def _ModelInfer(self, request: Any, metadata: Pairs) -> Iterator[Any]:  # noqa: N802
        model = self._model(request.model_name)
        if isinstance(model, ScriptedGenerator):
            raise Status(grpc.StatusCode.UNIMPLEMENTED, "a model with decoupled transaction policy")
        with self._counting(request.model_name):
            response = model.infer(request, metadata)
        yield response

    def _ServerLive(self, request: Any, metadata: Pairs) -> Iterator[Any]:  # noqa: N802
        yield service_pb2.ServerLiveResponse(live=True)

    def _ServerReady(self, request: Any, metadata: Pairs) -> Iterator[Any]:  # noqa: N802
        yield service_pb2.ServerReadyResponse(ready=True)

    def _ModelReady(self, request: Any, metadata: Pairs) -> Iterator[Any]:  # noqa: N802
        yield service_pb2.ModelReadyResponse(ready=request.name in self._loaded)

    def _ServerMetadata(self, request: Any, metadata: Pairs) -> Iterator[Any]:  # noqa: N802
        yield service_pb2.ServerMetadataResponse(name="fathom_client.testing", version="0", extensions=[])

    def _ModelMetadata(self, request: Any, metadata: Pairs) -> Iterator[Any]:  # noqa: N802
        self._model(request.name)
        yield service_pb2.ModelMetadataResponse(name=request.name, versions=["1"], platform="scripted")

    def _ModelConfig(self, request: Any, metadata: Pairs) -> Iterator[Any]:  # noqa: N802
        response = service_pb2.ModelConfigResponse()
        response.config.name = request.name
        response.config.backend = "scripted"
        response.config.max_batch_size = self._model(request.name).max_batch_size
        yield response

    def _ModelStatistics(self, request: Any, metadata: Pairs) -> Iterator[Any]:  # noqa: N802
        response = service_pb2.ModelStatisticsResponse()
        for name in sorted(self._loaded) if not request.name else [request.name]:
            self._model(name)
            stats = response.model_stats.add(name=name, version="1", inference_count=self._succeeded[name])
            stats.inference_stats.success.count = self._succeeded[name]
            stats.inference_stats.fail.count = self._failed[name]
        yield response

    def _RepositoryIndex(self, request: Any, metadata: Pairs) -> Iterator[Any]:  # noqa: N802
        response = service_pb2.RepositoryIndexResponse()
        for name in sorted(self._models):
            is_loaded = name in self._loaded
            reason = "" if is_loaded else "unloaded"
            response.models.add(name=name, version="1", state="READY" if is_loaded else "UNAVAILABLE", reason=reason)
        yield response

    def _RepositoryModelLoad(self, request: Any, metadata: Pairs) -> Iterator[Any]:  # noqa: N802
        if request.model_name not in self._models:
            raise Status(grpc.StatusCode.INVALID_ARGUMENT, f"failed to load '{request.model_name}': no such model")
        self._loaded.add(request.model_name)
        yield service_pb2.RepositoryModelLoadResponse()

    def _RepositoryModelUnload(self, request: Any, metadata: Pairs) -> Iterator[Any]:  # noqa: N802
        self._loaded.discard(request.model_name)
        yield service_pb2.RepositoryModelUnloadResponse()


def _status(error: FathomError) -> Status:
    """The status that makes the client raise such an error."""
    kind = next((kind for kind in _CODES if isinstance(error, kind)), None)
    code = grpc.StatusCode.INTERNAL if kind is None else _CODES[kind]
    details = str(error)
    if isinstance(error, OverloadedError) and "queue" not in details.lower():
        details = f"{details} (the queue is full)"
    return Status(code, details)
