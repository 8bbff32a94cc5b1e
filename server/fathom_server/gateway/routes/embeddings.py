"""``POST /v1/embeddings``."""

import base64
from typing import Any

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from fathom_client import AsyncClient
from fathom_server.gateway.answers.event_stream import while_connected
from fathom_server.gateway.catalog import ModelCatalog
from fathom_server.gateway.edge.request_record import record_of
from fathom_server.gateway.errors import InvalidApiRequestError
from fathom_server.gateway.schemas.embeddings import EmbeddingsRequest, EmbeddingsResponse

router = APIRouter()


@router.post("/v1/embeddings", response_model=EmbeddingsResponse)
async def embeddings(request: Request, body: EmbeddingsRequest) -> Response:
    """Turn texts into vectors."""
    record = record_of(request.scope)
    client: AsyncClient = request.app.state.client
    catalog: ModelCatalog = request.app.state.catalog
    record.model = (await catalog.find(body.model, "embed")).name
    texts = client.embed(
        body.model, body.input, prompt_name=body.prompt_name, truncate=body.truncate, request_id=record.request_id
    )
    answer = await while_connected(request, texts)
    record.input_tokens = tokens = sum(answer.num_input_tokens)
    dimensions = answer.vectors.shape[1]
    if body.dimensions not in (None, dimensions):
        raise InvalidApiRequestError(
            f"the vectors of {body.model} have {dimensions} dimensions and are not cut to {body.dimensions}; "
            "leave dimensions out",
            param="dimensions",
            code="unsupported_value",
        )
    vectors: list[Any]
    if body.encoding_format == "base64":
        vectors = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in answer.vectors]
    else:
        vectors = answer.vectors.tolist()
    content = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)],
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return Response(to_json(content), media_type="application/json")
