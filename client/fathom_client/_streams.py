"""Answers that stream: an iterator of chunks that cancels its request whenever it is left before the end."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import aio

from fathom_client._answer import Answer
from fathom_client._attempts import Attempts
from fathom_client._results import Generation, GenerationChunk
from fathom_client._status import CallContext, broken_stream, error_of_message, error_of_status, locally_closed
from fathom_client._stream_call import StreamCall
from fathom_client._tasks import is_task_cancelled
from fathom_client.errors import FathomError, ServerUnavailableError, StreamBrokenError


class _Progress:
    """What both kinds of stream know of their answer: where it stands, on which attempt, and what ended it."""

    def __init__(self, context: CallContext, attempts: Attempts, sequences: int) -> None:
        self.context = context
        self.attempts = attempts
        self.answer = Answer(context.model or "", context.request_id or "", sequences)
        self.failure: FathomError | None = None
        self.is_closed = False
        self.is_refused = False
        self.sent_ns = time.perf_counter_ns()

    def take(self, response: Any) -> GenerationChunk | None:
        """Take a ``ModelStreamInferResponse``; raises what it says."""
        self.is_refused = bool(response.error_message)
        if self.is_refused:
            told = error_of_message(response.error_message, self.context.at(self.attempts.endpoint.url))
            raise self._after_begin(told)
        chunk = self.answer.add(response.infer_response)
        if self.answer.is_complete:
            self.attempts.succeeded()
            self.attempts.release()
        return chunk

    def translate(self, error: Any) -> FathomError:
        """Turn a ``grpc.RpcError`` into the error that the reader gets."""
        if self.is_closed:
            return locally_closed(self.context)
        return self._after_begin(error_of_status(error, self.context.at(self.attempts.endpoint.url)))

    def _after_begin(self, error: FathomError) -> FathomError:
        if isinstance(error, ServerUnavailableError) and self.answer.has_begun:
            return broken_stream(self.answer, self.context, error)
        return error

    def pause_before_next(self, failure: FathomError) -> float | None:
        """Seconds to wait before the next attempt; None where there is none: never after the first chunk."""
        if not self.answer.has_begun:
            return self.attempts.pause_before_next(failure)
        if isinstance(failure, StreamBrokenError) and failure.code == "UNAVAILABLE":
            self.attempts.lost()
        return None

    def fail(self, failure: FathomError) -> None:
        """Keep what ended the answer."""
        self.failure = failure
        self.attempts.release()

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
            self.attempts.release()
            if not self.answer.is_complete:
                call.cancel()


class GenerationStream:
    """The chunks of one answer, as they come; of several (``n``), each chunk says to which it belongs.

    Leaving early cancels the request on the server: by ``close``, by the end of a ``with`` block, or by dropping the
    last reference, as ``break`` does in ``for chunk in client.stream(...)``. A stream that does not reach the answer's
    end raises; it never just stops. Not to be iterated from two threads at once; ``close`` may come from any.
    """

    def __init__(
        self,
        open_call: Callable[[Attempts], Any],
        attempts: Attempts,
        context: CallContext,
        sequences: int,
        explain: Callable[[FathomError], FathomError],
    ) -> None:
        self._progress = _Progress(context, attempts, sequences)
        self._open_call = open_call
        self._explain = explain
        self._closing = threading.Event()
        self._call: Any = None
        self._call = StreamCall(open_call(attempts))

    def __del__(self) -> None:
        self._progress.attempts.release()
        if self._call is not None and not sys.is_finalizing():
            self._progress.close(self._call)

    @property
    def request_id(self) -> str:
        """The id that the request carries to the server."""
        return self._progress.answer.request_id

    @property
    def sent_ns(self) -> int:
        """When the request, checked and built, was handed to gRPC for the first time, by ``time.perf_counter_ns``."""
        return self._progress.sent_ns

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
        self._closing.set()

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
                response = self._call.read()
                if response is None:
                    raise broken_stream(self._progress.answer, self._progress.context, None)
                chunk = self._progress.take(response)
            except grpc.RpcError as error:
                self._move_on(self._progress.translate(error))
            except FathomError as error:
                # a refused call ends by itself, and Triton 2.51 can crash on one that is cancelled as it answers
                if not (self._progress.is_refused and self._await_status()):
                    self._call.cancel()
                self._move_on(error)
            else:
                if chunk is not None:
                    return chunk
        self._await_status()
        return None

    def _move_on(self, failure: FathomError) -> None:
        """Begin the next attempt; raises the failure where there is none."""
        pause_s = self._progress.pause_before_next(failure)
        try:
            if pause_s is None:
                raise self._explain(failure)
            if self._closing.wait(pause_s):
                raise locally_closed(self._progress.context)
            self._call = StreamCall(self._open_call(self._progress.attempts))
        except FathomError as error:
            self._progress.fail(error)
            raise error from None
        if self._progress.is_closed:  # by another thread, which cancelled the call before
            self._call.cancel()

    def _await_status(self) -> bool:
        """Read past the last response, and tell whether it was: a call dropped before its status would be cancelled."""
        try:
            return self._call.read() is None
        except grpc.RpcError:
            return True  # whatever became of the connection


class AsyncGenerationStream:
    """The chunks of one answer, as they come: ``GenerationStream`` for asyncio, left early in the same ways.

    Cancelling the task that reads it cancels the request as well.
    """

    def __init__(
        self,
        open_call: Callable[[Attempts], Any],
        attempts: Attempts,
        context: CallContext,
        sequences: int,
        explain: Callable[[FathomError], Awaitable[FathomError]],
    ) -> None:
        self._progress = _Progress(context, attempts, sequences)
        self._open_call = open_call
        self._explain = explain
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._call: Any = None
        self._call = open_call(attempts)

    def __del__(self) -> None:
        self._progress.attempts.release()
        # gRPC keeps an unfinished call of asyncio alive, unlike a sync one; any thread may run this
        if self._call is not None and not self._progress.is_closed and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._progress.close, self._call)

    @property
    def request_id(self) -> str:
        """The id that the request carries to the server."""
        return self._progress.answer.request_id

    @property
    def sent_ns(self) -> int:
        """When the request, checked and built, was handed to gRPC for the first time, by ``time.perf_counter_ns``."""
        return self._progress.sent_ns

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
        self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._progress.close(self._call)
        self._closing.set()

    async def _read(self) -> GenerationChunk | None:
        """Return the next chunk, or None at the answer's end."""
        while not self._progress.is_over():
            try:
                response = await self._call.read()
                if response is aio.EOF:  # type: ignore[attr-defined] # grpc-stubs do not know it
                    raise broken_stream(self._progress.answer, self._progress.context, None)
                chunk = self._progress.take(response)
            except grpc.RpcError as error:
                await self._move_on(self._progress.translate(error))
            except asyncio.CancelledError:
                if is_task_cancelled():
                    self._close()
                    raise
                # gRPC says so to the reader when another task closes the stream or hangs up
                raise locally_closed(self._progress.context) from None
            except FathomError as error:
                # a refused call ends by itself, and Triton 2.51 can crash on one that is cancelled as it answers
                if not (self._progress.is_refused and await self._await_status()):
                    self._call.cancel()
                await self._move_on(error)
            else:
                if chunk is not None:
                    return chunk
        await self._await_status()
        return None

    async def _move_on(self, failure: FathomError) -> None:
        """Begin the next attempt; raises the failure where there is none."""
        pause_s = self._progress.pause_before_next(failure)
        try:
            if pause_s is None:
                raise await self._explain(failure)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause_s)
            if self._progress.is_closed:
                raise locally_closed(self._progress.context)
            self._call = self._open_call(self._progress.attempts)
        except FathomError as error:
            self._progress.fail(error)
            raise error from None
        except asyncio.CancelledError:
            self._close()
            raise

    async def _await_status(self) -> bool:
        """Read past the last response, and tell whether it was: a call dropped before its status would be cancelled."""
        try:
            return bool(await self._call.read() is aio.EOF)  # type: ignore[attr-defined] # grpc-stubs do not know it
        except grpc.RpcError:
            return True  # whatever became of the connection
        except asyncio.CancelledError:
            if is_task_cancelled():
                self._close()
                raise
            return True
