"""What the gateway adds to the time to the first token, and how fast it streams, beside the gRPC client.

The twin answers at once, so that all time is transport. Both ways take turns, so that a slow phase of the machine meets
both. Client, gateway and Triton share the machine's cores.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.gateway.stand import Stand, twin_stand
from benchmarks.gateway.streams import Stream, gateway_stream, grpc_stream

from fathom_client import AsyncClient

TURNS: Final = 10
REQUESTS: Final = 30
ROUNDS: Final = 3
STREAMS: Final = 64
TOKENS: Final = 128

Ask = Callable[[int], Awaitable[Stream]]


@dataclass(frozen=True, slots=True)
class Overhead:
    """Milliseconds to the first token, one request at a time; tokens a second of many streams at once.

    ``gateway_tokens_a_core`` is how many tokens the gateway streams in a second of its own processor time.
    """

    gateway_ttft_ms: float
    grpc_ttft_ms: float
    gateway_tokens_a_s: float
    grpc_tokens_a_s: float
    gateway_tokens_a_core: float

    def lines(self) -> list[str]:
        """The figures as a Markdown table."""
        return [
            "| | through the gateway | `fathom_client` over gRPC |",
            "|---|---|---|",
            f"| time to first token, one request at a time, median | {self.gateway_ttft_ms:.2f} ms "
            f"| {self.grpc_ttft_ms:.2f} ms |",
            f"| {STREAMS} streams at once, a token a piece | {self.gateway_tokens_a_s:,.0f} tokens/s "
            f"| {self.grpc_tokens_a_s:,.0f} tokens/s |",
            f"| a second of the gateway's processor time | {self.gateway_tokens_a_core:,.0f} tokens | |",
        ]


def measure() -> Overhead:
    """Start everything, measure, and stop it."""
    flags = ("--ttft-ms", "0", "--itl-ms", "0", "--max-batch", str(STREAMS))
    with twin_stand(*flags) as running:
        return asyncio.run(_measure(running))


async def _measure(running: Stand) -> Overhead:
    async with AsyncClient(f"127.0.0.1:{running.grpc_port}") as client:

        def by_gateway(max_tokens: int) -> Awaitable[Stream]:
            return gateway_stream(running.gateway_port, max_tokens)

        def by_grpc(max_tokens: int) -> Awaitable[Stream]:
            return grpc_stream(client, max_tokens)

        first_s: dict[Ask, list[float]] = {by_gateway: [], by_grpc: []}
        for turn in range(TURNS + 1):
            for ask, times in first_s.items():
                taken = [(await ask(2)).first_s for _ in range(REQUESTS)]
                times += taken if turn else []  # the first turn warms up
        rates: dict[Ask, list[float]] = {by_gateway: [], by_grpc: []}
        tokens = processor_s = 0.0
        for _ in range(ROUNDS):
            for ask, found in rates.items():
                before_s = running.processor_s()
                begun_s = time.perf_counter()
                streams = await asyncio.gather(*(ask(TOKENS) for _ in range(STREAMS)))
                pieces = sum(stream.pieces for stream in streams)
                found.append(STREAMS * TOKENS / (time.perf_counter() - begun_s))
                if ask is by_gateway:
                    tokens, processor_s = tokens + STREAMS * TOKENS, processor_s + running.processor_s() - before_s
                if pieces < STREAMS * TOKENS / 2:
                    print(f"note: tokens travelled together, {pieces} pieces of {STREAMS * TOKENS} tokens")
    return Overhead(
        gateway_ttft_ms=statistics.median(first_s[by_gateway]) * 1000,
        grpc_ttft_ms=statistics.median(first_s[by_grpc]) * 1000,
        gateway_tokens_a_s=statistics.median(rates[by_gateway]),
        grpc_tokens_a_s=statistics.median(rates[by_grpc]),
        gateway_tokens_a_core=tokens / processor_s,
    )
