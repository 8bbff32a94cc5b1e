"""The client for asyncio."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from tritonclient.grpc import service_pb2

from fathom_client import _channel, _requests, _responses, _tokens, protocol
from fathom_client._address import DEFAULT_URL, check_urls
from fathom_client._async_control import AsyncServerControl
from fathom_client._encoding import EncodePlan, classify_columns, embed_columns, plan_encode, rerank_columns
from fathom_client._limits import Keepalive, Limits
from fathom_client._lists import CONCURRENCY, BatchOutcome, Result, RowOutcomes, check_list, item_options
from fathom_client._options import GenerateOptions, Message
from fathom_client._results import Classification, Embeddings, Generation, Rerank, Tokenization
from fathom_client._retry import Retry
from fathom_client._status import CallContext
from fathom_client._streams import AsyncGenerationStream
from fathom_client._tensors import Tensor
from fathom_client._timeouts import Timeout, as_timeout, check_seconds
from fathom_client._tls import Tls
from fathom_client._transport import Transport
from fathom_client.errors import FathomError

T = TypeVar("T")


class AsyncClient(AsyncServerControl):
    """A connection to one server or to several; for one event loop, many requests at once; ``Client`` with ``await``.

    ``url`` is HOST:PORT of the gRPC service, or a list of them: requests go to the one that is healthy and has the
    fewest, and one that no server has begun to answer passes over to the next. Where a name has several addresses,
    they take turns. ``timeout`` is a Timeout, or the seconds for a whole answer, or None for no such limit.
    ``metadata`` goes with every call (lower-case names), for servers that ask for something; ``api_key`` goes as
    ``authorization: Bearer``. ``tls`` encrypts. ``retry`` tries again what no server took, and without it nothing is
    tried twice on the same server. ``keepalive`` pings, ``limits`` bounds messages, ``transport`` stands in for the
    network. The first call connects; proxies are those of the environment (``grpc_proxy``, ``https_proxy``,
    ``http_proxy``, ``no_grpc_proxy``, ``no_proxy``). Every method raises FathomError, see ``fathom_client.errors``.
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        timeout: Timeout | float | None = _channel.DEFAULT_TIMEOUT,
        metadata: Mapping[str, str] | None = None,
        api_key: str | None = None,
        tls: Tls | None = None,
        retry: Retry | None = None,
        keepalive: Keepalive | None = None,
        limits: Limits = _channel.DEFAULT_LIMITS,
        transport: Transport | None = None,
    ) -> None:
        urls = check_urls(url)
        settings = _channel.check_settings(as_timeout(timeout), tls, keepalive, limits, retry, transport)
        super().__init__(urls, settings, _channel.check_metadata(metadata, api_key))
        self._batch_sizes: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"AsyncClient({self._description})"

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
        return await self._generate(model, _requests.messages_prompt(messages, options), False, options).result()

    def stream_chat(
        self, model: str, messages: Sequence[Message | Mapping[str, Any]], **options: Unpack[GenerateOptions]
    ) -> AsyncGenerationStream:
        """Stream the answer to a conversation; the request is sent now."""
        return self._generate(model, _requests.messages_prompt(messages, options), True, options)

    async def generate_many(
        self,
        model: str,
        prompts: Sequence[str | Sequence[int]],
        *,
        concurrency: int = CONCURRENCY,
        **options: Unpack[GenerateOptions],
    ) -> list[Generation | FathomError]:
        """Return for each text or list of token ids its answer, or the error that it met, in order.

        ``concurrency`` requests run at once, each with the options, and with its own time limit.
        """
        return await self._generate_each(model, "prompts", prompts, _requests.text_item, concurrency, options)

    async def chat_many(
        self,
        model: str,
        conversations: Sequence[Sequence[Message | Mapping[str, Any]]],
        *,
        concurrency: int = CONCURRENCY,
        **options: Unpack[GenerateOptions],
    ) -> list[Generation | FathomError]:
        """Return for each conversation its answer, or the error that it met, in order; see ``generate_many``."""
        return await self._generate_each(
            model, "conversations", conversations, _requests.messages_prompt, concurrency, options
        )

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

    async def embed_many(
        self,
        model: str,
        texts: Sequence[str],
        *,
        prompt_name: str | None = None,
        truncate: bool = False,
        batch_size: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Embeddings | FathomError]:
        """Return for each text its vector (as Embeddings of one row), or its error, in order; see ``embed``."""
        rows = RowOutcomes(texts)
        columns = embed_columns(rows.texts, prompt_name) if rows.texts else {}
        return await self._encode_each(model, rows, columns, _responses.embeddings, truncate, batch_size, timeout_s)

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

    async def classify_many(
        self,
        model: str,
        texts: Sequence[str],
        *,
        truncate: bool = False,
        batch_size: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Classification | FathomError]:
        """Return for each text its labels (as Classification of one row), or its error, in order; see ``classify``."""
        rows = RowOutcomes(texts)
        columns = classify_columns(rows.texts) if rows.texts else {}
        return await self._encode_each(model, rows, columns, _responses.classification, truncate, batch_size, timeout_s)

    async def tokenize(
        self,
        model: str,
        prompt: str | Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Tokenization:
        """Return the token ids of a text, or of a conversation in the model's chat template.

        They are what ``generate`` and ``chat`` give the model; ``tools`` and ``chat_template_kwargs`` are those of
        ``chat``. The LLM's tokenizer model is asked, which takes none of the LLM's time.
        """
        request = _tokens.tokenize_request(model, prompt, tools, chat_template_kwargs, protocol.INPUT_IDS)
        return _tokens.read_tokens(model, await self._tokenizer(request, timeout_s))

    async def count_tokens(
        self,
        model: str,
        prompt: str | Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Return how many tokens a text or a conversation has, see ``tokenize``."""
        request = _tokens.tokenize_request(model, prompt, tools, chat_template_kwargs, protocol.NUM_INPUT_TOKENS)
        return _tokens.read_count(model, await self._tokenizer(request, timeout_s))

    async def detokenize(self, model: str, token_ids: Sequence[int], *, timeout_s: float | None = None) -> str:
        """Return the text of token ids, without the tokenizer's special tokens."""
        return _tokens.read_text(model, await self._tokenizer(_tokens.detokenize_request(model, token_ids), timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _generate(self, model: str, prompt: Tensor, stream: bool, options: GenerateOptions) -> AsyncGenerationStream:
        request, timeout_s = _requests.generate_request(model, prompt, stream, self._timeout.request_s, options)
        context = CallContext(self._url, model, request.id, timeout_s)
        return AsyncGenerationStream(
            lambda attempts: self._connection.open_stream(request, context, attempts),
            self._connection.attempts(_channel.deadline_s(timeout_s)),
            context,
            options.get("n") or 1,
            self._explain,
        )

    async def _generate_each(
        self,
        model: str,
        name: str,
        items: object,
        prompt_of: Callable[[Any, GenerateOptions], Tensor],
        concurrency: int,
        options: GenerateOptions,
    ) -> list[Generation | FathomError]:
        prompts = check_list(name, items, concurrency)
        slots = asyncio.Semaphore(concurrency)

        async def answer(index: int) -> Generation | FathomError:
            async with slots:
                try:
                    tensor = prompt_of(prompts[index], options)
                    return await self._generate(model, tensor, False, item_options(options, index)).result()
                except FathomError as error:
                    return error

        return await _gather([asyncio.create_task(answer(index)) for index in range(len(prompts))])

    async def _encode(
        self,
        model: str,
        columns: Mapping[str, Sequence[bytes]],
        truncate: bool,
        batch_size: int | None,
        timeout_s: float | None,
    ) -> list[_responses.BatchAnswer]:
        """Send the rows in batches; return each batch's answer, in order."""
        plan = self._plan(model, columns, truncate, batch_size, timeout_s)
        batches = plan.batches(plan.batch_size or await self._max_batch_size(model))
        slots = asyncio.Semaphore(_channel.IN_FLIGHT_BATCHES)
        responses = await _gather([asyncio.create_task(self._send_batch(batch, plan, slots)) for batch in batches])
        return list(zip(responses, batches, strict=True))

    async def _encode_each(
        self,
        model: str,
        rows: RowOutcomes,
        columns: Mapping[str, Sequence[bytes]],
        read: Callable[[str, Sequence[_responses.BatchAnswer]], Result],
        truncate: bool,
        batch_size: int | None,
        timeout_s: float | None,
    ) -> list[Result | FathomError]:
        """Send the rows in batches, and those of a batch that is refused one by one; return each row's outcome."""
        plan = self._plan(model, columns, truncate, batch_size, timeout_s)
        if rows.texts:
            batches = plan.batches(plan.batch_size or await self._max_batch_size(model))
            for refused in rows.take(read, plan, batches, await self._outcomes(batches, plan)):
                singles = plan.batches(1, refused)
                rows.take(read, plan, singles, await self._outcomes(singles, plan), refused.start)
        return rows.all()

    def _plan(
        self,
        model: str,
        columns: Mapping[str, Sequence[bytes]],
        truncate: bool,
        batch_size: int | None,
        timeout_s: float | None,
    ) -> EncodePlan:
        limit_s = self._timeout.request_s if timeout_s is None else timeout_s
        return plan_encode(self._url, model, columns, truncate, batch_size, limit_s)

    async def _outcomes(self, batches: Sequence[service_pb2.ModelInferRequest], plan: EncodePlan) -> list[BatchOutcome]:
        slots = asyncio.Semaphore(_channel.IN_FLIGHT_BATCHES)

        async def outcome(batch: service_pb2.ModelInferRequest) -> BatchOutcome:
            try:
                return await self._send_batch(batch, plan, slots)
            except FathomError as error:
                return error

        return await _gather([asyncio.create_task(outcome(batch)) for batch in batches])

    async def _send_batch(
        self, request: service_pb2.ModelInferRequest, plan: EncodePlan, slots: asyncio.Semaphore
    ) -> service_pb2.ModelInferResponse:
        async with slots:
            plan.give_time(request)
            return await self._call("ModelInfer", request, plan.context_of(request), plan.deadline_s)

    async def _max_batch_size(self, model: str) -> int:
        if model not in self._batch_sizes:
            response = await self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=model), model)
            self._batch_sizes[model] = max(1, response.config.max_batch_size)
        return self._batch_sizes[model]

    async def _tokenizer(self, request: service_pb2.ModelInferRequest, timeout_s: float | None) -> Any:
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        limit_s = self._timeout.request_s if timeout_s is None else timeout_s
        _requests.set_timeout(request, limit_s)
        context = CallContext(self._url, request.model_name, request.id, limit_s)
        return await self._call("ModelInfer", request, context, _channel.deadline_s(limit_s))


async def _gather(tasks: list[asyncio.Task[T]]) -> list[T]:
    """Wait for all tasks; where one fails, or the wait is cancelled, the others are cancelled."""
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
