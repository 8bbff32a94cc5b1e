"""One streamed answer, through the gateway or straight from Triton, and when its parts came."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from benchmarks.gateway.stand import MODEL

from fathom_client import AsyncClient

MESSAGES: Final[Sequence[dict[str, Any]]] = ({"role": "user", "content": "Sort alphabetically: ship, lamp, apple"},)
_TEXT: Final = b'"content":'
_END: Final = b"data: [DONE]\n\n\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Stream:
    """Seconds to the first text, and in how many pieces the text came."""

    first_s: float
    pieces: int


class GatewayConnection:
    """A connection that is kept, as clients keep theirs; without a library, whose cost is not the gateway's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to a gateway on this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def stream(self, max_tokens: int) -> Stream:
        """Ask, and read to the end."""
        body = json.dumps({"model": MODEL, "messages": MESSAGES, "max_tokens": max_tokens, "stream": True}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        begun_s = time.perf_counter()
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        first_s, pieces, end = 0.0, 0, b""
        while not end.endswith(_END):
            chunk = await self._reader.read(1 << 16)
            if not chunk:
                raise SystemExit(f"error: the gateway's answer broke off: {end!r}")
            found = chunk.count(_TEXT)
            if found and not first_s:
                first_s = time.perf_counter() - begun_s
            pieces, end = pieces + found, (end + chunk)[-len(_END) :]
        return Stream(first_s, pieces)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def grpc_stream(client: AsyncClient, max_tokens: int) -> Stream:
    """Ask Triton itself through ``fathom_client``."""
    begun_s = time.perf_counter()
    first_s, pieces = 0.0, 0
    async with client.stream_chat(MODEL, MESSAGES, max_tokens=max_tokens) as answer:
        async for _ in answer:
            pieces += 1
            first_s = first_s or time.perf_counter() - begun_s
    return Stream(first_s, pieces)
