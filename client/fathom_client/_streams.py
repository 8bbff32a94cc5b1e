"""Answers that stream: an iterator of chunks that cancels its request whenever it is left before the end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import aio

from fathom_client._answer import Answer
from fathom_client._results import Generation, GenerationChunk
from fathom_client._status import CallContext, broken_stream, error_of_message, error_of_status, locally_closed
from fathom_client.errors import FathomError, ServerUnavailableError


class _Progress:
    """What both kinds of stream know of their answer: where it stands, and what ended it."""

    def __init__(self, context: CallContext, sequences: int) -> None:
        self.context = context
        self.answer = Answer(context.model or "", context.request_id or "", sequences)
        self.failure: FathomError | None = None
        self.is_closed = False

    def take(self, response: Any) -> GenerationChunk | None:
        """Take a ``ModelStreamInferResponse``; raises what it says."""
        if response.error_message:
            raise error_of_message(response.error_message, self.context)
        return self.answer.add(response.infer_response)

    def translate(self, error: Any) -> FathomError:
        """Turn a ``grpc.RpcError`` into the error that the reader gets."""
        if self.is_closed:
            return locally_closed(self.context)
        translated = error_of_status(error, self.context)
        if isinstance(translated, ServerUnavailableError) and self.answer.has_begun:
            return broken_stream(self.answer, self.context, translated)
        return translated

    def is_over(self) -> bool:
        """Whether no more chunks come; raises the failure, if that is why."""
        if self.failure is not None:
            raise self.failure
        if self.answer.is_complete:
            return True
        if self.is_closed:
            raise locally_closed(self.context)
        return False

    def is_closed_whole(self) -> bool:
        """Whether the stream was closed after the last chunk had arrived, so that there is nothing left to read."""
        return self.is_closed and self.failure is None and self.answer.is_whole

    def close(self, call: Any) -> None:
        """Cancel the call unless the server has ended it, or is just about to."""
        if not self.is_closed:
            self.is_closed = True
            if not self.answer.is_complete:
                call.cancel()


def is_task_cancelled() -> bool:
    """Whether a CancelledError is meant for the running task, rather than gRPC's word for a call cancelled here."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class GenerationStream:
    """The chunks of one answer, as they come; of several (``n``), each chunk says to which it belongs.

    Leaving early cancels the request on the server: by ``close``, by the end of a ``with`` block, or by dropping the
    last reference, as ``break`` does in ``for chunk in client.stream(...)``. A stream that does not reach the answer's
    end raises; it never just stops. Not to be iterated from two threads at once; ``close`` may come from any.
    """

    def __init__(
        self, call: Any, context: CallContext, sequences: int, explain: Callable[[FathomError], FathomError]
    ) -> None:
        self._call = call
        self._progress = _Progress(context, sequences)
        self._explain = explain

    @property
    def request_id(self) -> str:
        """The id that the request carries to the server."""
        return self._progress.answer.request_id

    def __iter__(self) -> Iterator[GenerationChunk]:
        return self

    def __next__(self) -> GenerationChunk:
        chunk = self._read()
        if chunk is None:
            raise StopIteration
        return chunk

    def result(self) -> Generation:
        """Return the whole answer; what has not arrived yet is waited for. Raises FathomError if it cannot be whole."""
        if not self._progress.is_closed_whole():
            while self._read() is not None:
                pass
        return self._progress.answer.result()

    def close(self) -> None:
        """Cancel the request unless its answer is complete. May be called again, and from another thread."""
        self._progress.close(self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> GenerationChunk | None:
        """Return the next chunk, or None at the answer's end."""
        while not self._progress.is_over():
            try:
                response = next(self._call, None)
                if response is None:
                    raise broken_stream(self._progress.answer, self._progress.context, None)
                chunk = self._progress.take(response)
            except grpc.RpcError as error:
                self._progress.failure = self._explain(self._progress.translate(error))
                raise self._progress.failure from None
            except FathomError as error:
                self._progress.failure = self._explain(error)
                self._call.cancel()
                raise self._progress.failure from None
            if chunk is not None:
                return chunk
        self._await_status()
        return None

    def _await_status(self) -> None:
        """Read past the final response: a call that is dropped before its status would be cancelled at the server."""
        with suppress(grpc.RpcError):
            next(self._call, None)


class AsyncGenerationStream:
    """The chunks of one answer, as they come: ``GenerationStream`` for asyncio, left early in the same ways.

    Cancelling the task that reads it cancels the request as well.
    """

    def __init__(
        self,
        call: Any,
        context: CallContext,
        sequences: int,
        explain: Callable[[FathomError], Awaitable[FathomError]],
    ) -> None:
        self._call = call
        self._progress = _Progress(context, sequences)
        self._explain = explain
        self._loop = asyncio.get_running_loop()

    def __del__(self) -> None:
        # gRPC keeps an unfinished call of asyncio alive, unlike a sync one; any thread may run this
        if not self._progress.is_closed and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._progress.close, self._call)

    @property
    def request_id(self) -> str:
        """The id that the request carries to the server."""
        return self._progress.answer.request_id

    def __aiter__(self) -> AsyncIterator[GenerationChunk]:
        return self

    async def __anext__(self) -> GenerationChunk:
        chunk = await self._read()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def result(self) -> Generation:
        """Return the whole answer; what has not arrived yet is waited for. Raises FathomError if it cannot be whole."""
        if not self._progress.is_closed_whole():
            while await self._read() is not None:
                pass
        return self._progress.answer.result()

    async def close(self) -> None:
        """Cancel the request unless its answer is complete. May be called again."""
        self._progress.close(self._call)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.close(self._call)

    async def _read(self) -> GenerationChunk | None:
        """Return the next chunk, or None at the answer's end."""
        while not self._progress.is_over():
            try:
                response = await self._call.read()
                if response is aio.EOF:  # type: ignore[attr-defined] # grpc-stubs do not know it
                    raise broken_stream(self._progress.answer, self._progress.context, None)
                chunk = self._progress.take(response)
            except grpc.RpcError as error:
                self._progress.failure = await self._explain(self._progress.translate(error))
                raise self._progress.failure from None
            except asyncio.CancelledError:
                if is_task_cancelled():
                    self._progress.close(self._call)
                    raise
                # gRPC says so to the reader when another task closes the stream or hangs up
                raise locally_closed(self._progress.context) from None
            except FathomError as error:
                self._progress.failure = await self._explain(error)
                self._call.cancel()
                raise self._progress.failure from None
            if chunk is not None:
                return chunk
        await self._await_status()
        return None

    async def _await_status(self) -> None:
        """Read past the final response: a call that is dropped before its status would be cancelled at the server."""
        try:
            await self._call.read()
        except grpc.RpcError:
            pass  # the answer is complete, whatever became of the connection
        except asyncio.CancelledError:
            if is_task_cancelled():
                raise
