"""Answers that stream: chunks, results, and leaving early."""

import asyncio
import gc
import inspect
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from fathom_client import (
    AsyncClient,
    Client,
    ClientClosedError,
    DeadlineExceededError,
    GenerationChunk,
    ProtocolError,
    RequestCancelledError,
)

Ordered = Callable[..., str]
Seen = Callable[[str], str]
LONG = "a word " * 500


def test_chunks_add_up_to_the_result(client: Client) -> None:
    """Each chunk has its own text, tokens and count, the last one the reason, and together they are the result."""
    with client.stream("chat", "hello big world") as stream:
        chunks = list(stream)
        result = stream.result()
    assert [chunk.text for chunk in chunks] == ["hello ", "big ", "world"]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"]
    assert all(
        chunk == GenerationChunk(chunk.text, tuple(map(ord, chunk.text)), len(chunk.text), chunk.finish_reason)
        for chunk in chunks
    )
    assert result.text == "hello big world"
    assert result.token_ids == tuple(map(ord, "hello big world"))
    assert (result.num_input_tokens, result.num_output_tokens, result.finish_reason) == (15, 15, "stop")
    assert result.request_id == stream.request_id


async def test_a_stream_tells_when_its_request_was_sent(client: Client, async_client: AsyncClient) -> None:
    """The time is between the call and its return, whatever is read later."""
    for open_stream in (client.stream, async_client.stream):
        before_ns = time.perf_counter_ns()
        stream = open_stream("chat", "hello")
        sent_ns, after_ns = stream.sent_ns, time.perf_counter_ns()
        result = stream.result()
        assert (await result if inspect.isawaitable(result) else result).text == "hello"
        assert before_ns < sent_ns == stream.sent_ns < after_ns


async def test_several_answers_stream_side_by_side(client: Client, async_client: AsyncClient) -> None:
    """Chunks of several answers come as they are made, each says whose it is, and the result holds all of them."""
    options = {"n": 2, "temperature": 1.0, "logprobs": 0, "prompt_logprobs": 0, "request_id": "same"}
    with client.stream("chat", "hello big world", **options) as stream:
        chunks = list(stream)
        result = stream.result()
    assert [chunk.index for chunk in chunks] == [0, 1, 0, 1, 0, 1]
    assert [chunk.finish_reason for chunk in chunks] == [None] * 4 + ["stop", "stop"]
    assert all(tuple(each.token_id for each in chunk.logprobs) == chunk.token_ids for chunk in chunks)
    assert [choice.text for choice in result.choices] == ["hello big world", "1:hello big world"]
    assert len(result.prompt_logprobs) == len("hello big world")
    assert result == client.generate("chat", "hello big world", **options)
    async_stream = async_client.stream("chat", "hello big world", **options)
    assert [chunk async for chunk in async_stream] == chunks
    assert await async_stream.result() == result


def test_stream_of_several_is_whole_when_all_have_ended(client: Client, ordered: Ordered) -> None:
    """One answer's end is not the end: whoever leaves there has no whole answer, whoever leaves at the last has."""
    with client.stream("chat", ordered("hello big world", empty_final=True), n=2, temperature=1.0) as stream:
        for chunk in stream:
            if chunk.finish_reason is not None and chunk.index == 1:
                break
    assert [choice.text for choice in stream.result().choices] == ["hello big world", "1:hello big world"]
    with client.stream("chat", ordered("hello big world", empty_final=True), n=2, temperature=1.0) as stream:
        for chunk in stream:
            if chunk.finish_reason is not None:
                break
    with pytest.raises(RequestCancelledError):
        stream.result()


@pytest.mark.parametrize("indices", [[2], [-1], [0, 1]])
def test_answers_of_nobody_are_a_protocol_error(client: Client, ordered: Ordered, indices: list[int]) -> None:
    """A response for an answer that was not asked for, or for more than it holds, is the server's fault by name."""
    with pytest.raises(ProtocolError, match="the response does not fit"):
        list(client.stream("chat", ordered("hello", indices=indices), n=2, temperature=1.0))


def test_chunks_come_while_the_answer_is_made(client: Client, ordered: Ordered, seen: Seen) -> None:
    """The first chunk is there long before the last: when the stream is left after one, the end is far."""
    with client.stream("chat", ordered(LONG, delay_s=0.02)) as stream:
        assert next(stream).text == "a "
    assert int(seen("cancelled").removeprefix("cancelled after ")) < 500


@pytest.mark.parametrize("whole", ["final flag with the last tokens", "final flag alone"])
def test_both_ways_of_ending_are_understood(client: Client, ordered: Ordered, whole: str) -> None:
    """An answer may end with its last tokens or with an empty response behind them."""
    with client.stream("chat", ordered("hello big world", empty_final="alone" in whole)) as stream:
        assert "".join(chunk.text for chunk in stream) == "hello big world"
        assert stream.result().finish_reason == "stop"


def test_result_reads_what_is_left(client: Client) -> None:
    """``result`` waits for the rest of the answer, may be asked again, and leaves nothing to iterate."""
    stream = client.stream("chat", "hello big world")
    next(stream)
    assert stream.result().text == "hello big world"
    assert stream.result().text == "hello big world"
    assert list(stream) == []
    stream.close()


def test_stream_left_after_its_last_chunk_is_whole(client: Client, ordered: Ordered) -> None:
    """Whoever leaves at the finish reason has the whole answer, even before the empty final response."""
    with client.stream("chat", ordered("hello big world", empty_final=True)) as stream:
        for chunk in stream:
            if chunk.finish_reason is not None:
                break
    assert stream.result().text == "hello big world"


def test_answer_without_text_is_an_answer(client: Client, ordered: Ordered) -> None:
    """A model may end at once."""
    assert client.generate("chat", ordered("")).text == ""
    with client.stream("chat", ordered("")) as stream:
        assert stream.result().num_output_tokens == 0


def leave_by_close(client: Client, prompt: str) -> None:
    stream = client.stream("chat", prompt)
    next(stream)
    stream.close()
    stream.close()


def leave_by_with(client: Client, prompt: str) -> None:
    with client.stream("chat", prompt) as stream:
        next(stream)


def leave_by_break(client: Client, prompt: str) -> None:
    for _ in client.stream("chat", prompt):
        break


def leave_by_exception(client: Client, prompt: str) -> None:
    with suppress(RuntimeError), client.stream("chat", prompt) as stream:
        for _ in stream:
            raise RuntimeError


def leave_by_forgetting(client: Client, prompt: str) -> None:
    stream = client.stream("chat", prompt)
    next(stream)
    del stream
    gc.collect()


def leave_by_generator(client: Client, prompt: str) -> None:
    def texts():
        for chunk in client.stream("chat", prompt):
            yield chunk.text

    generator = texts()
    next(generator)
    generator.close()


LEAVING = [
    leave_by_close,
    leave_by_with,
    leave_by_break,
    leave_by_exception,
    leave_by_forgetting,
    leave_by_generator,
]


@pytest.mark.parametrize("leave", LEAVING, ids=lambda function: function.__name__)
def test_leaving_early_cancels_on_the_server(
    client: Client, ordered: Ordered, seen: Seen, leave: Callable[[Client, str], None]
) -> None:
    """However a stream is left before its end, the model sees its request cancelled, and only that one."""
    with client.stream("chat", ordered("b " * 40, delay_s=0.02, marker="/dev/null")) as other:
        next(other)
        leave(client, ordered(LONG, delay_s=0.02))
        assert seen("cancelled").startswith("cancelled after")
        assert other.result().text == "b " * 40


def test_leaving_before_the_first_chunk_cancels(client: Client, ordered: Ordered, seen: Seen) -> None:
    """A request that has not answered yet is cancelled as well."""
    stream = client.stream("chat", ordered(LONG, delay_s=5))
    seen("started")
    stream.close()
    assert seen("cancelled") == "cancelled after 0"


def test_closed_stream_does_not_just_stop(client: Client, ordered: Ordered) -> None:
    """Reading on after ``close``, or asking for the result, raises: a cut answer never looks like a whole one."""
    stream = client.stream("chat", ordered(LONG, delay_s=0.02))
    next(stream)
    stream.close()
    with pytest.raises(RequestCancelledError, match="closed before the answer's end"):
        list(stream)
    with pytest.raises(RequestCancelledError):
        stream.result()


def test_another_thread_may_close(client: Client, ordered: Ordered, seen: Seen) -> None:
    """``close`` from another thread ends a reader's wait with an error, and the request on the server."""
    stream = client.stream("chat", ordered(LONG, delay_s=30))
    seen("started")
    closer = threading.Timer(0.1, stream.close)
    closer.start()
    with pytest.raises(RequestCancelledError) as caught:
        next(stream)
    assert (caught.value.code, caught.value.model) == ("CANCELLED", "chat")
    closer.join()
    seen("cancelled")


def test_closing_the_client_cancels_its_streams(url: str, ordered: Ordered, seen: Seen) -> None:
    """A client that is closed cancels what runs, and says so to whoever reads or asks again."""
    client = Client(url)
    stream = client.stream("chat", ordered(LONG, delay_s=0.02))
    next(stream)
    client.close()
    with pytest.raises(RequestCancelledError):
        list(stream)
    seen("cancelled")
    with pytest.raises(ClientClosedError, match="is closed; make a new one"):
        client.generate("chat", "hello")
    with pytest.raises(ClientClosedError):
        client.models()


def test_server_gives_up_at_the_time_limit(client: Client, ordered: Ordered, seen: Seen) -> None:
    """The model learns the limit and ends the request itself; the client turns its word into a deadline error."""
    with pytest.raises(DeadlineExceededError, match="the answer is late") as caught:
        client.generate("chat", ordered(LONG, delay_s=0.01), timeout_s=0.3)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert seen("cancelled").startswith("late after")


def test_grpc_deadline_holds_where_the_server_does_not(
    client: Client, ordered: Ordered, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the server is told no limit, gRPC's own deadline ends the stream, and the server sees it cancelled."""
    monkeypatch.setattr("fathom_client._requests.set_timeout", lambda request, timeout_s: None)
    with client.stream("chat", ordered(LONG, delay_s=0.05), timeout_s=0.2) as stream:
        with pytest.raises(DeadlineExceededError, match=r"no complete answer within 0\.2 s"):
            list(stream)
        with pytest.raises(DeadlineExceededError):  # and it stays so
            next(stream)
    assert seen("cancelled").startswith("cancelled after")


def test_answer_without_a_reason_is_refused(client: Client, ordered: Ordered) -> None:
    """An answer that ends without saying why breaks the protocol."""
    with pytest.raises(ProtocolError, match="without a finish reason"):
        client.generate("chat", ordered("hello", no_finish_reason=True))


def test_many_streams_run_at_once_on_one_client(client: Client, ordered: Ordered) -> None:
    """Streams that are read in turn, one chunk each, keep their answers apart."""
    texts = [f"stream {number} says {'so ' * 10}" for number in range(64)]
    streams = [client.stream("chat", ordered(text, delay_s=0.002)) for text in texts]
    answers = ["" for _ in streams]
    unfinished = set(range(len(streams)))
    while unfinished:
        for number in sorted(unfinished):
            chunk = next(streams[number])
            answers[number] += chunk.text
            if chunk.finish_reason is not None:
                unfinished.remove(number)
    assert answers == texts
    assert [stream.result().text for stream in streams] == texts


async def test_many_async_streams_run_at_once(async_client: AsyncClient, ordered: Ordered) -> None:
    """A hundred tasks stream through one client."""
    texts = [f"stream {number} says {'so ' * 10}" for number in range(100)]

    async def read(text: str) -> str:
        return "".join([chunk.text async for chunk in async_client.stream("chat", ordered(text, delay_s=0.002))])

    assert await asyncio.gather(*map(read, texts)) == texts


async def test_async_streams_can_be_left(
    async_client: AsyncClient, ordered: Ordered, seen: Seen, tmp_path: Path
) -> None:
    """``close``, ``async with``, ``break`` and forgetting each cancel on the server."""

    async def by_close(prompt: str) -> None:
        stream = async_client.stream("chat", prompt)
        await anext(stream)
        await stream.close()
        with pytest.raises(RequestCancelledError):
            await stream.result()

    async def by_with(prompt: str) -> None:
        async with async_client.stream("chat", prompt) as stream:
            await anext(stream)

    async def by_break(prompt: str) -> None:
        async for _ in async_client.stream("chat", prompt):
            break

    async def by_forgetting(prompt: str) -> None:
        stream = async_client.stream("chat", prompt)
        await anext(stream)

    for number, leave in enumerate((by_close, by_with, by_break, by_forgetting)):
        await leave(ordered(LONG, delay_s=0.02, marker=str(tmp_path / f"cancelled-{number}")))
        assert (await asyncio.to_thread(seen, f"cancelled-{number}")).startswith("cancelled after")


async def test_cancelling_the_task_cancels_on_the_server(
    async_client: AsyncClient, ordered: Ordered, seen: Seen, tmp_path: Path
) -> None:
    """A cancelled task, or one whose ``asyncio.timeout`` ends, cancels its request, streamed or whole."""
    for number, method in enumerate((async_client.generate, lambda *a: async_client.stream(*a).result())):
        prompt = ordered(LONG, delay_s=0.01, started=str(tmp_path / f"s{number}"), marker=str(tmp_path / f"c{number}"))
        task = asyncio.ensure_future(method("chat", prompt))
        await asyncio.to_thread(seen, f"s{number}")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await asyncio.to_thread(seen, f"c{number}")).startswith("cancelled after")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await async_client.generate("chat", ordered(LONG, delay_s=0.01))
    assert (await asyncio.to_thread(seen, "cancelled")).startswith("cancelled after")


async def test_another_task_may_close(async_client: AsyncClient, ordered: Ordered, seen: Seen) -> None:
    """A reader whose stream another task closes gets an error, not its own task's cancellation."""
    stream = async_client.stream("chat", ordered(LONG, delay_s=30))
    reader = asyncio.ensure_future(stream.result())
    await asyncio.to_thread(seen, "started")
    await stream.close()
    with pytest.raises(RequestCancelledError):
        await reader
    await asyncio.to_thread(seen, "cancelled")


async def test_closing_the_async_client_cancels_its_streams(url: str, ordered: Ordered, seen: Seen) -> None:
    """An async client that is closed cancels what runs, and refuses more."""
    client = AsyncClient(url)
    reader = asyncio.ensure_future(client.generate("chat", ordered(LONG, delay_s=0.01)))
    embedding = asyncio.ensure_future(client.embed("minilm", ["slow"] * 16, batch_size=1))
    await asyncio.to_thread(seen, "started")
    await client.close()
    with pytest.raises(RequestCancelledError):
        await reader
    with pytest.raises(ClientClosedError):
        await embedding
    await asyncio.to_thread(seen, "cancelled")
    with pytest.raises(ClientClosedError):
        await client.generate("chat", "hello")


def test_stream_may_outlive_its_loop(url: str, ordered: Ordered, capfd: pytest.CaptureFixture[str]) -> None:
    """A stream that outlives its event loop is dropped without a word."""

    async def begin():
        client = AsyncClient(url)
        stream = client.stream("chat", ordered("a word " * 10, delay_s=0.02))
        await anext(stream)
        return client, stream

    kept = asyncio.run(begin())
    del kept
    gc.collect()
    assert capfd.readouterr().err == ""


async def test_complete_answer_outlives_its_client(url: str) -> None:
    """An answer whose last chunk has arrived can be asked for after its client was closed, by both clients."""
    with Client(url) as client:
        stream = client.stream("chat", "hello world")
        chunks = [next(stream), next(stream)]
    assert stream.result().text == "".join(chunk.text for chunk in chunks) == "hello world"
    async with AsyncClient(url) as async_client:
        async_stream = async_client.stream("chat", "hello world")
        chunks = [await anext(async_stream), await anext(async_stream)]
    assert (await async_stream.result()).text == "".join(chunk.text for chunk in chunks) == "hello world"


async def test_async_deadline(async_client: AsyncClient, ordered: Ordered, seen: Seen) -> None:
    """The time limit works for asyncio too."""
    with pytest.raises(DeadlineExceededError, match="the answer is late"):
        await async_client.generate("chat", ordered(LONG, delay_s=0.01), timeout_s=0.3)
    assert seen("cancelled").startswith("late after")
