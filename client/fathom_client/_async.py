"""The client for asyncio."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fathom_client import _channel, _requests, _responses
from fathom_client._address import DEFAULT_URL, check_url
from fathom_client._encoding import EncodePlan, classify_columns, embed_columns, plan_encode, rerank_columns
from fathom_client._health import ReadinessWait, is_unreachable
from fathom_client._options import GenerateOptions, Message
from fathom_client._results import (
    Classification,
    Embeddings,
    Generation,
    ModelInfo,
    ModelMetadata,
    Rerank,
    ServerMetadata,
)
from fathom_client._status import CallContext, closed_client, error_of_status, with_models
from fathom_client._streams import AsyncGenerationStream, is_task_cancelled
from fathom_client._tensors import Tensor
from fathom_client._timeouts import Timeout, as_timeout
from fathom_client.errors import FathomError, ModelNotFoundError


class AsyncClient:
    """A connection to one server for one event loop, many requests at once; ``Client`` with ``await``.

    ``url`` is HOST:PORT of the gRPC service. ``timeout`` is a Timeout, or the seconds for a whole answer, or None for
    no such limit. ``metadata`` goes with every call (lower-case names), for servers that ask for a key. The first call
    connects. Every method raises FathomError, see ``fathom_client.errors``.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: Timeout | float | None = _channel.DEFAULT_TIMEOUT,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._url = check_url(url)
        self._timeout = as_timeout(timeout)
        self._metadata = _channel.check_metadata(metadata)
        self._batch_sizes: dict[str, int] = {}
        self._is_closed = False
        self._channel: aio.Channel | None = None
        self._stub: Any = None
        self._open_stream: Any = None

    def __repr__(self) -> str:
        return f"AsyncClient({self._url!r}, timeout={self._timeout!r})"

    async def generate(self, model: str, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]) -> Generation:
        """Return the whole answer to a text or to token ids."""
        return await self._generate(model, _requests.text_prompt(prompt), False, options).result()

    def stream(
        self, model: str, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]
    ) -> AsyncGenerationStream:
        """Stream the answer to a text or to token ids; the request is sent now."""
        return self._generate(model, _requests.text_prompt(prompt), True, options)

    async def chat(
        self, model: str, messages: Sequence[Message | Mapping[str, Any]], **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Return the whole answer to a conversation."""
        return await self._generate(model, _requests.messages_prompt(messages), False, options).result()

    def stream_chat(
        self, model: str, messages: Sequence[Message | Mapping[str, Any]], **options: Unpack[GenerateOptions]
    ) -> AsyncGenerationStream:
        """Stream the answer to a conversation; the request is sent now."""
        return self._generate(model, _requests.messages_prompt(messages), True, options)

    async def embed(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        truncate: bool = False,
        batch_size: int | None = None,
        timeout_s: float | None = None,
    ) -> Embeddings:
        """Return one vector a text, in order.

        ``prompt_name`` chooses the prompt that the model puts before each text: ``"query"``, ``"document"`` or one of
        its own; without it the model's default. A text that is too long for the model is refused, or cut with
        ``truncate``. ``batch_size`` texts travel in one request, by default as many as the model takes. ``timeout_s``
        is for all texts together.
        """
        columns = embed_columns(texts, prompt_name)
        return _responses.embeddings(model, await self._encode(model, columns, truncate, batch_size, timeout_s))

    async def rerank(
        self,
        model: str,
        query: str,
        documents: Sequence[str],
        *,
        truncate: bool = False,
        batch_size: int | None = None,
        timeout_s: float | None = None,
    ) -> Rerank:
        """Return how well each document answers the query, in the order of the documents.

        A pair that is too long for the model is refused, or its longer text cut with ``truncate``. ``batch_size`` pairs
        travel in one request, by default as many as the model takes. ``timeout_s`` is for all documents together.
        """
        columns = rerank_columns(query, documents)
        return _responses.rerank(model, await self._encode(model, columns, truncate, batch_size, timeout_s))

    async def classify(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        truncate: bool = False,
        batch_size: int | None = None,
        timeout_s: float | None = None,
    ) -> Classification:
        """Return the labels' probabilities for each text, in order.

        A text that is too long for the model is refused, or cut with ``truncate``. ``batch_size`` texts travel in one
        request, by default as many as the model takes. ``timeout_s`` is for all texts together.
        """
        columns = classify_columns(texts)
        return _responses.classification(model, await self._encode(model, columns, truncate, batch_size, timeout_s))

    async def is_live(self) -> bool:
        """Whether a server answers."""
        try:
            return bool((await self._ask("ServerLive", service_pb2.ServerLiveRequest())).live)
        except FathomError as error:
            if is_unreachable(error):
                return False
            raise

    async def is_ready(self, model: str | None = None) -> bool:
        """Whether the server takes requests, for ``model`` or, without one, for every model in its repository."""
        try:
            return await self._is_ready(model)
        except FathomError as error:
            if is_unreachable(error):
                return False
            raise

    async def wait_until_ready(self, timeout_s: float = 60.0, model: str | None = None) -> None:
        """Return as soon as ``is_ready(model)``; raise DeadlineExceededError after ``timeout_s``, with what is not."""
        wait = ReadinessWait(self._url, timeout_s, model)
        while True:
            try:
                if await self._is_ready(model):
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

    async def close(self) -> None:
        """Hang up; requests that still run are cancelled."""
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _generate(self, model: str, prompt: Tensor, stream: bool, options: GenerateOptions) -> AsyncGenerationStream:
        request, timeout_s = _requests.generate_request(model, prompt, stream, self._timeout.request_s, options)
        context = CallContext(self._url, model, request.id, timeout_s)
        self._connect(context)
        call = self._open_stream(
            request, timeout=_channel.call_limit(timeout_s), metadata=(*self._metadata, *_channel.STREAM_METADATA)
        )
        return AsyncGenerationStream(call, context, options.get("n") or 1, self._explain)

    async def _encode(
        self,
        model: str,
        columns: Mapping[str, Sequence[bytes]],
        truncate: bool,
        batch_size: int | None,
        timeout_s: float | None,
    ) -> list[_responses.BatchAnswer]:
        """Send the rows in batches; return each batch's answer, in order."""
        limit_s = self._timeout.request_s if timeout_s is None else timeout_s
        plan = plan_encode(self._url, model, columns, truncate, batch_size, limit_s)
        batches = plan.batches(plan.batch_size or await self._max_batch_size(model))
        slots = asyncio.Semaphore(_channel.IN_FLIGHT_BATCHES)
        tasks = [asyncio.create_task(self._send_batch(batch, plan, slots)) for batch in batches]
        try:
            responses = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return list(zip(responses, batches, strict=True))

    async def _send_batch(
        self, request: service_pb2.ModelInferRequest, plan: EncodePlan, slots: asyncio.Semaphore
    ) -> service_pb2.ModelInferResponse:
        async with slots:
            limit_s = plan.give_time(request)
            return await self._call("ModelInfer", request, plan.context_of(request), limit_s)

    async def _is_ready(self, model: str | None) -> bool:
        if model is None:
            return bool((await self._ask("ServerReady", service_pb2.ServerReadyRequest())).ready)
        request = service_pb2.ModelReadyRequest(name=_requests.check_model(model))
        return bool((await self._ask("ModelReady", request, model)).ready)

    async def _max_batch_size(self, model: str) -> int:
        if model not in self._batch_sizes:
            response = await self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=model), model)
            self._batch_sizes[model] = max(1, response.config.max_batch_size)
        return self._batch_sizes[model]

    async def _ask(self, method: str, request: Any, model: str | None = None) -> Any:
        """Call a method of health or metadata."""
        limit_s = self._timeout.control_s
        context = CallContext(self._url, model, timeout_s=limit_s)
        return await self._call(method, request, context, limit_s)

    async def _call(self, method: str, request: Any, context: CallContext, limit_s: float | None) -> Any:
        self._connect(context)
        try:
            return await getattr(self._stub, method)(request, timeout=limit_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise await self._explain(error_of_status(error, context)) from None
        except asyncio.CancelledError:
            if is_task_cancelled():
                raise
            raise closed_client(context) from None  # gRPC says so to whoever waits when another task hangs up

    def _connect(self, context: CallContext) -> None:
        """Make the channel when it is first used: it belongs to the event loop that runs then."""
        if self._is_closed:
            raise closed_client(context)
        if self._channel is None:
            self._channel = aio.insecure_channel(self._url, options=_channel.channel_options(self._timeout))
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
            self._open_stream = self._channel.unary_stream(_channel.STREAM_METHOD, **_channel.STREAM_CODECS)

    async def _explain(self, error: FathomError) -> FathomError:
        """Add the names of the models that are there to an error about one that is not."""
        if not isinstance(error, ModelNotFoundError):
            return error
        try:
            return with_models(error, await self.models())
        except FathomError:
            return error  # the hint is not worth another error
