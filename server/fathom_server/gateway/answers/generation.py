"""The generations behind one request: whole, or as one stream of the chunks of all of them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fathom_client import AsyncGenerationStream, Generation, GenerationChunk

_QUEUED_CHUNKS: Final = 8


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """The next part of an answer to the prompt number ``prompt``."""

    prompt: int
    chunk: GenerationChunk


class Streams:
    """The streams of one request, one a prompt, read together as their chunks come."""

    def __init__(self, streams: Sequence[AsyncGenerationStream]) -> None:
        self._streams = streams

    async def chunks(self) -> AsyncGenerator[PromptChunk, None]:
        """The chunks of all streams; the first error ends them all. Leaving early cancels what still runs."""
        try:
            if len(self._streams) == 1:
                async for chunk in self._streams[0]:
                    yield PromptChunk(0, chunk)
            else:
                async with contextlib.aclosing(self._merged()) as merged:
                    async for each in merged:
                        yield each
        finally:
            await self.close()

    async def close(self) -> None:
        """Cancel what still runs."""
        for stream in self._streams:
            await stream.close()

    async def results(self) -> list[Generation]:
        """The whole answers, once all chunks have been read."""
        return [await stream.result() for stream in self._streams]

    async def _merged(self) -> AsyncGenerator[PromptChunk, None]:
        queue: asyncio.Queue[PromptChunk | Exception | None] = asyncio.Queue(_QUEUED_CHUNKS)
        tasks = [asyncio.create_task(_pass_on(index, stream, queue)) for index, stream in enumerate(self._streams)]
        running = len(tasks)
        try:
            while running:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    running -= 1
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(
    index: int, stream: AsyncGenerationStream, queue: "asyncio.Queue[PromptChunk | Exception | None]"
) -> None:
    try:
        async for chunk in stream:
            await queue.put(PromptChunk(index, chunk))
        await queue.put(None)
    except Exception as error:  # raised again by whoever reads the queue
        await queue.put(error)


async def all_of(start: Callable[[int], Any], count: int) -> list[Generation]:
    """The results of ``start(0)``, ``start(1)``, …, coroutines that run together; the first error ends them all."""
    tasks = [asyncio.ensure_future(start(index)) for index in range(count)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
