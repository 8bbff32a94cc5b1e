"""Answers as server-sent events, and answers that end when their caller hangs up."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

DONE: Final = b"data: [DONE]\n\n"
"""What ends a stream that is whole."""

HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Nobody on the way is to keep the events back; the second is nginx's."""


class HungUpError(Exception):
    """The caller has hung up; there is nobody to answer."""


def event(content: Any) -> bytes:
    """One event of JSON."""
    return b"data: " + to_json(content) + b"\n\n"


class EventStream(Response):
    """Sends events as they come; a caller who hangs up ends them at once. ``let_go`` frees what is behind them."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], let_go: Callable[[], Awaitable[None]]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._events = events
        self._let_go = let_go

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        sending = asyncio.ensure_future(self._send(send))
        await _first_of(sending, receive)

    async def _send(self, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for chunk in self._events:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._events.aclose()
            await self._let_go()


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The work's result; a caller who hangs up ends it, as HungUpError. The request's body must have been read."""
    task = asyncio.ensure_future(work)
    await _first_of(task, request.receive)
    if task.cancelled():
        raise HungUpError
    return task.result()


async def _first_of(task: "asyncio.Future[Any]", receive: Receive) -> None:
    """Wait until the task has ended, cancelling it when the caller hangs up; raises what the task raises."""
    hang_up = asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait({task, hang_up}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hang_up.cancel()
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
