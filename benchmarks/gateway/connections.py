"""What idle connections and waiting streams cost the gateway in memory."""

import asyncio
import contextlib
import json
import resource
from dataclasses import dataclass
from typing import Final

from benchmarks.gateway.stand import MODEL, Stand, twin_stand
from benchmarks.gateway.streams import MESSAGES

CONNECTIONS: Final = 4000
STREAMS: Final = 1000
KIB: Final = 1024
PATIENCE_S: Final = 120.0
IDLE_S: Final = 0.02
"""Processor time in half a second, below which the gateway is at rest."""


@dataclass(frozen=True, slots=True)
class Connections:
    """Memory in KiB of each idle connection, of each open stream, and what stays when all have gone."""

    idle_kib: float
    stream_kib: float
    base_mib: float
    after_mib: float

    def lines(self) -> list[str]:
        """The figures as a Markdown table."""
        return [
            "| memory of the gateway | |",
            "|---|---|",
            f"| at rest | {self.base_mib:.0f} MiB |",
            f"| each of {CONNECTIONS:,} idle connections | {self.idle_kib:.1f} KiB |",
            f"| each of {STREAMS:,} streams that wait for their first token | {self.stream_kib:.1f} KiB |",
            f"| when all have gone | {self.after_mib:.0f} MiB |",
        ]


def measure() -> Connections:
    """Start everything, measure, and stop it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    settings = f"max_connections = {CONNECTIONS + STREAMS}\nheader_timeout_s = 600\nkeep_alive_s = 600\n"
    flags = ("--ttft-ms", "600000", "--max-batch", str(STREAMS), "--max-queue", str(STREAMS))
    with twin_stand(*flags, settings=settings) as running:
        return asyncio.run(_measure(running))


async def _measure(running: Stand) -> Connections:
    await _hold(running, 100, b"")  # what the first ones cost besides
    base = running.rss_bytes()
    idle = await _hold(running, CONNECTIONS, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "max_tokens": 8, "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    between = running.rss_bytes()
    waiting = await _hold(running, STREAMS, head + body, is_answered=False)
    await _settle(running)
    return Connections(
        idle_kib=(idle - base) / CONNECTIONS / KIB,
        stream_kib=(waiting - between) / STREAMS / KIB,
        base_mib=base / KIB**2,
        after_mib=running.rss_bytes() / KIB**2,
    )


async def _hold(running: Stand, count: int, request: bytes, *, is_answered: bool = True) -> int:
    """Open connections that ask the same, and tell the gateway's memory while all of them are there."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway_port)
            stack.callback(writer.close)
            writer.write(request)
            if request and is_answered:
                await reader.readuntil(b"}")
        await _settle(running)
        return running.rss_bytes()


async def _settle(running: Stand) -> None:
    """Wait until the gateway has done what there was to do."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            before_s = running.processor_s()
            await asyncio.sleep(0.5)
            if running.processor_s() - before_s < IDLE_S:
                return
