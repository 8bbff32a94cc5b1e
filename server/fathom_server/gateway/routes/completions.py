"""``POST /v1/completions``."""

from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from fathom_client import AsyncClient
from fathom_server.gateway.answers.completion import CompletionAnswerWriter
from fathom_server.gateway.answers.event_stream import while_connected
from fathom_server.gateway.answers.field_names import FieldNames
from fathom_server.gateway.answers.generation import Streams, all_of
from fathom_server.gateway.answers.stream import answer_stream
from fathom_server.gateway.answers.usage import usage_of
from fathom_server.gateway.catalog import ModelCatalog
from fathom_server.gateway.edge.request_record import record_of
from fathom_server.gateway.errors import InvalidApiRequestError
from fathom_server.gateway.schemas.completions import Completion, CompletionRequest
from fathom_server.gateway.settings import GatewaySettings

STREAMED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
"""What the API's document says of answers that may stream."""

router = APIRouter()


@router.post("/v1/completions", response_model=Completion, responses=STREAMED)
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Go on with texts."""
    settings: GatewaySettings = request.app.state.settings
    client: AsyncClient = request.app.state.client
    catalog: ModelCatalog = request.app.state.catalog
    record = record_of(request.scope)
    prompts = body.prompts
    if len(prompts) > settings.max_prompts:
        raise InvalidApiRequestError(
            f"prompt has {len(prompts)} prompts; at most {settings.max_prompts} are taken in one request",
            param="prompt",
            code="invalid_value",
        )
    record.model = (await catalog.find(body.model, "generate")).name
    writer = CompletionAnswerWriter(record.request_id, body)
    options = [
        {
            **body.options(),
            "echo": bool(body.echo) and not isinstance(prompt, str),
            "client": record.client or body.user or None,
            "request_id": record.request_id if len(prompts) == 1 else f"{record.request_id}-{index}",
        }
        for index, prompt in enumerate(prompts)
    ]
    names = FieldNames(CompletionRequest.model_fields, body.structure)
    if body.stream:
        with names.told():
            streams = Streams([client.stream(body.model, prompts[i], **options[i]) for i in range(len(prompts))])
        return await answer_stream(
            request,
            streams,
            writer.entries,
            writer.chunk,
            include_usage=body.include_usage,
            names=names,
        )
    with names.told():
        generations = await while_connected(
            request, all_of(lambda i: client.generate(body.model, prompts[i], **options[i]), len(prompts))
        )
    return Response(to_json(writer.whole(generations, usage_of(generations, record))), media_type="application/json")
