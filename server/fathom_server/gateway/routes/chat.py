"""``POST /v1/chat/completions``."""

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from fathom_client import AsyncClient
from fathom_server.gateway.answers.chat import ChatAnswerWriter, ChoiceStream
from fathom_server.gateway.answers.event_stream import while_connected
from fathom_server.gateway.answers.field_names import FieldNames
from fathom_server.gateway.answers.generation import PromptChunk, Streams
from fathom_server.gateway.answers.stream import answer_stream
from fathom_server.gateway.answers.usage import usage_of
from fathom_server.gateway.catalog import ModelCatalog
from fathom_server.gateway.edge.request_record import record_of
from fathom_server.gateway.routes.completions import STREAMED
from fathom_server.gateway.schemas.chat import ChatCompletion, ChatRequest
from fathom_server.gateway.schemas.messages import template_messages
from fathom_server.gateway.tools.tool_use import tool_use

router = APIRouter()


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMED)
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation."""
    client: AsyncClient = request.app.state.client
    catalog: ModelCatalog = request.app.state.catalog
    record = record_of(request.scope)
    model = await catalog.find(body.model, "generate")
    record.model = model.name  # a name that there is not would be the caller's own text in the log
    tools = tool_use(body, model)
    messages = template_messages(body.messages)
    options: dict[str, Any] = {
        **body.options(),
        **({} if tools is None else tools.options()),
        "client": record.client or body.user or None,
        "request_id": record.request_id,
    }
    writer = ChatAnswerWriter(record.request_id, body.model, tools)
    names = FieldNames(ChatRequest.model_fields, body.structure if tools is None else "tools")
    if not body.stream:
        with names.told():
            answer = await while_connected(request, client.chat(body.model, messages, **options))
        whole = writer.whole(answer.choices, usage_of([answer], record))
        return Response(to_json(whole), media_type="application/json")
    with names.told():
        streams = Streams([client.stream_chat(body.model, messages, **options)])
    choices: dict[int, ChoiceStream] = {}

    def entries(part: PromptChunk) -> Iterator[dict[str, Any]]:
        index = part.chunk.index
        return choices.setdefault(index, writer.stream_of_choice()).push(index, part.chunk)

    return await answer_stream(
        request,
        streams,
        entries,
        writer.chunk,
        include_usage=body.include_usage,
        names=names,
    )
