"""What the gateway adds to the time to the first token, and how fast it streams, beside the gRPC client.

The twin gives the first token at once and the others at a set pace; tokens that are late travel together, as the
engine's do. Both ways take turns, so that a slow phase of the machine meets both. The asking program, gateway and
Triton share the machine's cores.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.gateway.stand import Stand, twin_stand
from benchmarks.gateway.streams import GatewayConnection, Stream, grpc_stream

from fathom_client import AsyncClient

TURNS: Final = 10
REQUESTS: Final = 30
"""So many requests, one after the other, before the other way has its turn."""

STREAMS: Final = 64
PACES_MS: Final = (20, 5)
TOKENS: Final = 128
ROUNDS: Final = 2
SETTINGS: Final = "header_timeout_s = 600\nkeep_alive_s = 600\n"
"""Connections that wait for their turn are not to be closed meanwhile."""

Ask = Callable[[int, int], Awaitable[Stream]]
"""Streams an answer of so many tokens as the caller of a number."""


@dataclass(slots=True)
class Way:
    """One way to ask, and what was found: seconds to the first token; by pace, tokens and pieces a second."""

    ask: Ask
    first_s: list[float] = field(default_factory=list)
    tokens_a_s: dict[int, list[float]] = field(default_factory=dict)
    pieces_a_s: dict[int, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Overhead:
    """Both ways, and the pieces of text that the gateway passes on in a second of its own processor time, by pace."""

    gateway: Way
    grpc: Way
    pieces_a_core: dict[int, float]

    def lines(self) -> list[str]:
        """The figures as a Markdown table."""
        lines = [
            "| | through the gateway | `fathom_client` over gRPC |",
            "|---|---|---|",
            _row(
                "time to first token, one request at a time, median",
                [f"{statistics.median(way.first_s) * 1000:.2f} ms" for way in (self.gateway, self.grpc)],
            ),
        ]
        for pace_ms in PACES_MS:
            offered = STREAMS * 1000 / pace_ms
            cells = [
                f"{statistics.median(way.tokens_a_s[pace_ms]):,.0f} tokens/s in "
                f"{statistics.median(way.pieces_a_s[pace_ms]):,.0f} pieces/s"
                for way in (self.gateway, self.grpc)
            ]
            lines.append(_row(f"{STREAMS} streams, a token every {pace_ms} ms each ({offered:,.0f}/s)", cells))
            cells = [f"{self.pieces_a_core[pace_ms]:,.0f} pieces", ""]
            lines.append(_row("of them in a second of the gateway's processor time", cells))
        return lines


def measure() -> Overhead:
    """Start everything, measure, and stop it."""
    found = None
    for pace_ms in PACES_MS:
        flags = ("--ttft-ms", "0", "--itl-ms", str(pace_ms), "--max-batch", str(STREAMS))
        with twin_stand(*flags, settings=SETTINGS) as running:
            found = asyncio.run(_measure(running, pace_ms, found))
    assert found is not None  # noqa: S101 (there are paces)
    return found


async def _measure(running: Stand, pace_ms: int, before: Overhead | None) -> Overhead:
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(AsyncClient(f"127.0.0.1:{running.grpc_port}"))
        connections = [await GatewayConnection.open(running.gateway_port) for _ in range(STREAMS)]
        for connection in connections:
            stack.callback(connection.close)
        gateway = Way(lambda caller, tokens: connections[caller].stream(tokens))
        grpc = Way(lambda _, tokens: grpc_stream(client, tokens))
        if before is None:
            for turn in range(TURNS + 1):
                for way in (gateway, grpc):
                    taken = [(await way.ask(0, 2)).first_s for _ in range(REQUESTS)]
                    way.first_s += taken if turn else []  # the first turn warms up
        pieces = processor_s = 0.0
        for _ in range(ROUNDS):
            for way in (gateway, grpc):
                used_s = running.processor_s()
                passed = await _stream_together(way, pace_ms)
                if way is gateway:
                    pieces, processor_s = pieces + passed, processor_s + running.processor_s() - used_s
    if before is None:
        return Overhead(gateway, grpc, {pace_ms: pieces / processor_s})
    for known, new in ((before.gateway, gateway), (before.grpc, grpc)):
        known.tokens_a_s |= new.tokens_a_s
        known.pieces_a_s |= new.pieces_a_s
    before.pieces_a_core[pace_ms] = pieces / processor_s
    return before


async def _stream_together(way: Way, pace_ms: int) -> int:
    """Let all callers stream at once; gives the number of pieces that came."""
    begun_s = time.perf_counter()
    streams: Sequence[Stream] = await asyncio.gather(*(way.ask(caller, TOKENS) for caller in range(STREAMS)))
    taken_s = time.perf_counter() - begun_s
    pieces = sum(stream.pieces for stream in streams)
    way.tokens_a_s.setdefault(pace_ms, []).append(STREAMS * TOKENS / taken_s)
    way.pieces_a_s.setdefault(pace_ms, []).append(pieces / taken_s)
    return pieces


def _row(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"
