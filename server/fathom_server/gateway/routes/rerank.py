"""``POST /v1/rerank``."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from fathom_client import AsyncClient
from fathom_server.gateway.answers.event_stream import while_connected
from fathom_server.gateway.catalog import ModelCatalog
from fathom_server.gateway.edge.request_record import record_of
from fathom_server.gateway.schemas.rerank import RerankRequest, RerankResponse

router = APIRouter()


@router.post("/v1/rerank", response_model=RerankResponse)
async def rerank(request: Request, body: RerankRequest) -> Response:
    """Put documents in the order in which they answer a query."""
    record = record_of(request.scope)
    client: AsyncClient = request.app.state.client
    catalog: ModelCatalog = request.app.state.catalog
    record.model = (await catalog.find(body.model, "rerank")).name
    documents = [each if isinstance(each, str) else each.text for each in body.documents]
    ranks = client.rerank(body.model, body.query, documents, truncate=body.truncate, request_id=record.request_id)
    answer = await while_connected(request, ranks)
    record.input_tokens = tokens = sum(answer.num_input_tokens)
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": float(answer.scores[index])} for index in answer.order[: body.top_n]
    ]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    content = {
        "id": record.request_id,
        "model": body.model,
        "results": results,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return Response(to_json(content), media_type="application/json")
