"""The stream of one request's answers: its first chunk decides whether there is an error or a stream."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fathom_server.gateway.answers.event_stream import DONE, EventStream, event, while_connected
from fathom_server.gateway.answers.field_names import FieldNames
from fathom_server.gateway.answers.generation import PromptChunk, Streams
from fathom_server.gateway.answers.usage import usage_of
from fathom_server.gateway.edge.request_record import record_of
from fathom_server.gateway.errors import api_error

WriteChunk = Callable[[list[dict[str, Any]], dict[str, Any]], dict[str, Any]]
"""Makes a chunk of the entries of its choices and of what else belongs in it."""


async def answer_stream(
    request: Request,
    streams: Streams,
    entries: Callable[[PromptChunk], Iterable[dict[str, Any]]],
    write: WriteChunk,
    *,
    include_usage: bool,
    names: FieldNames,
) -> Response:
    """Wait for the first chunk, and answer with a stream of all of them.

    ``entries`` are the entries of ``choices`` that a chunk of the generation makes, ``names`` the request's fields.
    Raises ApiError and FathomError for what is refused, or fails, before the first chunk. What fails later is the
    stream's last event, and no ``[DONE]`` follows.
    """
    chunks = streams.chunks()
    with names.told():
        first = await while_connected(request, anext(chunks))
    record = record_of(request.scope)
    further: dict[str, Any] = {"usage": None} if include_usage else {}

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(chunks):
                async for chunk in _with_first(first, chunks):
                    record.output_tokens += chunk.chunk.num_output_tokens
                    data = b"".join(event(write([entry], further)) for entry in entries(chunk))
                    if data:
                        yield data
            usage = usage_of(await streams.results(), record)
            yield (event(write([], {"usage": usage})) if include_usage else b"") + DONE
        except Exception as error:  # the process's edge: the caller is told, and a fault is logged
            yield event(api_error(error).body())

    return EventStream(events(), streams.close)


async def _with_first(first: PromptChunk, others: AsyncIterator[PromptChunk]) -> AsyncIterator[PromptChunk]:
    yield first
    async for chunk in others:
        yield chunk
