"""Embedding, reranking and classifying, for asyncio: ``_sync_encoders`` with ``await``."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from tritonclient.grpc import service_pb2

from fathom_client import _channel, _responses
from fathom_client._async_control import AsyncServerControl
from fathom_client._channel import ChannelSettings
from fathom_client._encoding import EncodePlan, classify_columns, embed_columns, plan_encode, rerank_columns
from fathom_client._lists import BatchOutcome, Result, RowOutcomes
from fathom_client._results import Classification, Embeddings, Rerank
from fathom_client._tasks import gather
from fathom_client._trace import Pairs
from fathom_client.errors import FathomError


class AsyncEncoderCalls(AsyncServerControl):
    """The part of ``AsyncClient`` that asks encoders."""

    def __init__(self, urls: tuple[str, ...], settings: ChannelSettings, metadata: Pairs) -> None:
        super().__init__(urls, settings, metadata)
        self._batch_sizes: dict[str, int] = {}

    async def embed(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        truncate: bool = False,
        batch_size: int | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Embeddings:
        """Return one vector a text, in order.

        ``prompt_name`` chooses the prompt that the model puts before each text: ``"query"``, ``"document"`` or one of
        its own; without it the model's default. A text that is too long for the model is refused, or cut with
        ``truncate``. ``batch_size`` texts travel in one request, by default as many as the model takes. ``timeout_s``
        is for all texts together. ``request_id`` is a name for logs and errors; where there are several requests, it is
        what their names begin with.
        """
        columns = embed_columns(texts, prompt_name)
        return _responses.embeddings(
            model, await self._encode(model, columns, truncate, batch_size, timeout_s, request_id)
        )

    async def embed_many(
        self,
        model: str,
        texts: Sequence[str],
        *,
        prompt_name: str | None = None,
        truncate: bool = False,
        batch_size: int | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> list[Embeddings | FathomError]:
        """Return for each text its vector (as Embeddings of one row), or its error, in order; see ``embed``."""
        rows = RowOutcomes("texts", texts)
        columns = embed_columns(rows.texts, prompt_name) if rows.texts else {}
        return await self._encode_each(
            model, rows, columns, _responses.embeddings, truncate, batch_size, timeout_s, request_id
        )

    async def rerank(
        self,
        model: str,
        query: str,
        documents: Sequence[str],
        *,
        truncate: bool = False,
        batch_size: int | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Rerank:
        """Return how well each document answers the query, in the order of the documents.

        A pair that is too long for the model is refused, or its longer text cut with ``truncate``. ``batch_size`` pairs
        travel in one request, by default as many as the model takes. ``timeout_s`` is for all documents together;
        ``request_id`` as for ``embed``.
        """
        columns = rerank_columns(query, documents)
        return _responses.rerank(model, await self._encode(model, columns, truncate, batch_size, timeout_s, request_id))

    async def rerank_many(
        self,
        model: str,
        query: str,
        documents: Sequence[str],
        *,
        truncate: bool = False,
        batch_size: int | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> list[Rerank | FathomError]:
        """Return for each document its score (as Rerank of one document), or its error, in order; see ``rerank``."""
        rows = RowOutcomes("documents", documents)
        columns = rerank_columns(query, rows.texts) if rows.texts else {}
        return await self._encode_each(
            model, rows, columns, _responses.rerank, truncate, batch_size, timeout_s, request_id
        )

    async def classify(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        truncate: bool = False,
        batch_size: int | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Classification:
        """Return the labels' probabilities for each text, in order.

        A text that is too long for the model is refused, or cut with ``truncate``. ``batch_size`` texts travel in one
        request, by default as many as the model takes. ``timeout_s`` is for all texts together;
        ``request_id`` as for ``embed``.
        """
        columns = classify_columns(texts)
        return _responses.classification(
            model, await self._encode(model, columns, truncate, batch_size, timeout_s, request_id)
        )

    async def classify_many(
        self,
        model: str,
        texts: Sequence[str],
        *,
        truncate: bool = False,
        batch_size: int | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> list[Classification | FathomError]:
        """Return for each text its labels (as Classification of one row), or its error, in order; see ``classify``."""
        rows = RowOutcomes("texts", texts)
        columns = classify_columns(rows.texts) if rows.texts else {}
        return await self._encode_each(
            model, rows, columns, _responses.classification, truncate, batch_size, timeout_s, request_id
        )

    async def _encode(
        self,
        model: str,
        columns: Mapping[str, Sequence[bytes]],
        truncate: bool,
        batch_size: int | None,
        timeout_s: float | None,
        request_id: str | None,
    ) -> list[_responses.BatchAnswer]:
        """Send the rows in batches; return each batch's answer, in order."""
        plan = self._plan(model, columns, truncate, batch_size, timeout_s, request_id)
        batches = plan.batches(plan.batch_size or await self._max_batch_size(model))
        slots = asyncio.Semaphore(_channel.IN_FLIGHT_BATCHES)
        responses = await gather([asyncio.create_task(self._send_batch(batch, plan, slots)) for batch in batches])
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
        request_id: str | None,
    ) -> list[Result | FathomError]:
        """Send the rows in batches, and those of a batch that is refused one by one; return each row's outcome."""
        plan = self._plan(model, columns, truncate, batch_size, timeout_s, request_id)
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
        request_id: str | None,
    ) -> EncodePlan:
        limit_s = self._timeout.request_s if timeout_s is None else timeout_s
        return plan_encode(self._url, model, columns, truncate, batch_size, limit_s, request_id)

    async def _outcomes(self, batches: Sequence[service_pb2.ModelInferRequest], plan: EncodePlan) -> list[BatchOutcome]:
        slots = asyncio.Semaphore(_channel.IN_FLIGHT_BATCHES)

        async def outcome(batch: service_pb2.ModelInferRequest) -> BatchOutcome:
            try:
                return await self._send_batch(batch, plan, slots)
            except FathomError as error:
                return error

        return await gather([asyncio.create_task(outcome(batch)) for batch in batches])

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
