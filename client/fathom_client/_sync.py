"""The client for threads and greenlets."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
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
from fathom_client._streams import GenerationStream
from fathom_client._tensors import Tensor
from fathom_client._timeouts import Timeout, as_timeout
from fathom_client.errors import FathomError, ModelNotFoundError


class Client:
    """A connection to one server; safe to share between threads, many requests at once.

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
        self._channel = grpc.insecure_channel(self._url, options=_channel.channel_options(self._timeout))
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._open_stream = self._channel.unary_stream(_channel.STREAM_METHOD, **_channel.STREAM_CODECS)

    def __repr__(self) -> str:
        return f"Client({self._url!r}, timeout={self._timeout!r})"

    def generate(self, model: str, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]) -> Generation:
        """Return the whole answer to a text or to token ids."""
        return self._generate(model, _requests.text_prompt(prompt), False, options).result()

    def stream(self, model: str, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]) -> GenerationStream:
        """Stream the answer to a text or to token ids; the request is sent now."""
        return self._generate(model, _requests.text_prompt(prompt), True, options)

    def chat(
        self, model: str, messages: Sequence[Message | Mapping[str, Any]], **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Return the whole answer to a conversation."""
        return self._generate(model, _requests.messages_prompt(messages), False, options).result()

    def stream_chat(
        self, model: str, messages: Sequence[Message | Mapping[str, Any]], **options: Unpack[GenerateOptions]
    ) -> GenerationStream:
        """Stream the answer to a conversation; the request is sent now."""
        return self._generate(model, _requests.messages_prompt(messages), True, options)

    def embed(
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
        return _responses.embeddings(model, self._encode(model, columns, truncate, batch_size, timeout_s))

    def rerank(
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
        return _responses.rerank(model, self._encode(model, columns, truncate, batch_size, timeout_s))

    def classify(
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
        return _responses.classification(model, self._encode(model, columns, truncate, batch_size, timeout_s))

    def is_live(self) -> bool:
        """Whether a server answers."""
        try:
            return bool(self._ask("ServerLive", service_pb2.ServerLiveRequest()).live)
        except FathomError as error:
            if is_unreachable(error):
                return False
            raise

    def is_ready(self, model: str | None = None) -> bool:
        """Whether the server takes requests, for ``model`` or, without one, for every model in its repository."""
        try:
            return self._is_ready(model)
        except FathomError as error:
            if is_unreachable(error):
                return False
            raise

    def wait_until_ready(self, timeout_s: float = 60.0, model: str | None = None) -> None:
        """Return as soon as ``is_ready(model)``; raise DeadlineExceededError after ``timeout_s``, with what is not."""
        wait = ReadinessWait(self._url, timeout_s, model)
        while True:
            try:
                if self._is_ready(model):
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

    def close(self) -> None:
        """Hang up; requests that still run are cancelled."""
        self._is_closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _generate(self, model: str, prompt: Tensor, stream: bool, options: GenerateOptions) -> GenerationStream:
        request, timeout_s = _requests.generate_request(model, prompt, stream, self._timeout.request_s, options)
        context = CallContext(self._url, model, request.id, timeout_s)
        call = self._start(
            self._open_stream,
            request,
            context,
            timeout=_channel.call_limit(timeout_s),
            metadata=(*self._metadata, *_channel.STREAM_METADATA),
        )
        return GenerationStream(call, context, options.get("n") or 1, self._explain)

    def _encode(
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
        batches = plan.batches(plan.batch_size or self._max_batch_size(model))
        if len(batches) == 1:  # a blocking call costs half of a future
            context, limit_s = plan.context_of(batches[0]), plan.give_time(batches[0])
            return [(self._call("ModelInfer", batches[0], context, limit_s), batches[0])]
        return list(zip(self._send_batches(batches, plan), batches, strict=True))

    def _send_batches(
        self, batches: list[service_pb2.ModelInferRequest], plan: EncodePlan
    ) -> list[service_pb2.ModelInferResponse]:
        waiting: deque[tuple[Any, CallContext]] = deque()
        responses = []
        try:
            for batch in batches:
                if len(waiting) == _channel.IN_FLIGHT_BATCHES:
                    responses.append(self._await_batch(*waiting.popleft()))
                context, limit_s = plan.context_of(batch), plan.give_time(batch)
                send = self._stub.ModelInfer.future
                waiting.append((self._start(send, batch, context, timeout=limit_s, metadata=self._metadata), context))
            while waiting:
                responses.append(self._await_batch(*waiting.popleft()))
        finally:
            for call, _ in waiting:
                call.cancel()
        return responses

    def _await_batch(self, call: Any, context: CallContext) -> service_pb2.ModelInferResponse:
        try:
            return call.result()
        except grpc.RpcError as error:
            raise self._explain(error_of_status(error, context)) from None
        except grpc.FutureCancelledError:
            raise closed_client(context) from None

    def _is_ready(self, model: str | None) -> bool:
        if model is None:
            return bool(self._ask("ServerReady", service_pb2.ServerReadyRequest()).ready)
        request = service_pb2.ModelReadyRequest(name=_requests.check_model(model))
        return bool(self._ask("ModelReady", request, model).ready)

    def _max_batch_size(self, model: str) -> int:
        if model not in self._batch_sizes:
            response = self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=model), model)
            self._batch_sizes[model] = max(1, response.config.max_batch_size)
        return self._batch_sizes[model]

    def _ask(self, method: str, request: Any, model: str | None = None) -> Any:
        """Call a method of health or metadata."""
        limit_s = self._timeout.control_s
        return self._call(method, request, CallContext(self._url, model, timeout_s=limit_s), limit_s)

    def _call(self, method: str, request: Any, context: CallContext, limit_s: float | None) -> Any:
        try:
            return self._start(getattr(self._stub, method), request, context, timeout=limit_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._explain(error_of_status(error, context)) from None

    def _start(self, method: Any, request: Any, context: CallContext, **arguments: Any) -> Any:
        if self._is_closed:
            raise closed_client(context)
        try:
            return method(request, **arguments)
        except ValueError:  # gRPC's word for a channel that another thread closed just now
            raise closed_client(context) from None

    def _explain(self, error: FathomError) -> FathomError:
        """Add the names of the models that are there to an error about one that is not."""
        if not isinstance(error, ModelNotFoundError):
            return error
        try:
            return with_models(error, self.models())
        except FathomError:
            return error  # the hint is not worth another error
