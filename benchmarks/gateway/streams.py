"""One streamed answer, through the gateway or straight from Triton, and when its parts came."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.gateway.stand import MODEL

from fathom_client import AsyncClient

MESSAGES: Final[Sequence[dict[str, Any]]] = ({"role": "user", "content": "Sort alphabetically: ship, lamp, apple"},)
_TEXT: Final = b'"content":'


@dataclass(frozen=True, slots=True)
class Stream:
    """Seconds to the first text and to the end, and how many pieces of text came."""

    first_s: float
    whole_s: float
    pieces: int


async def gateway_stream(port: int, max_tokens: int) -> Stream:
    """Ask the gateway, as a client without a library would: what a library costs is not the gateway's."""
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "max_tokens": max_tokens, "stream": True}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close"
    begun_s = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        first_s, pieces, last = 0.0, 0, b""
        while chunk := await reader.read(1 << 16):
            found = chunk.count(_TEXT)
            if found and not first_s:
                first_s = time.perf_counter() - begun_s
            pieces, last = pieces + found, (last + chunk)[-64:]
    finally:
        writer.close()
    if b"data: [DONE]" not in last:
        raise SystemExit(f"error: the gateway's answer broke off: {last!r}")
    return Stream(first_s, time.perf_counter() - begun_s, pieces)


async def grpc_stream(client: AsyncClient, max_tokens: int) -> Stream:
    """Ask Triton itself through ``fathom_client``."""
    begun_s = time.perf_counter()
    first_s, pieces = 0.0, 0
    async with client.stream_chat(MODEL, MESSAGES, max_tokens=max_tokens) as answer:
        async for _ in answer:
            pieces += 1
            first_s = first_s or time.perf_counter() - begun_s
    return Stream(first_s, time.perf_counter() - begun_s, pieces)
