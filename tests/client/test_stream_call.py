"""The call behind a stream, on a real gRPC server and channel."""

import gc
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import psutil
import pytest
from grpc.experimental import ChannelOptions

from fathom_client._stream_call import StreamCall

METHOD = "/test/Stream"
CALLS = 600
MOST_BYTES_EACH = 6 << 10
"""grpcio 1.85 keeps 21 KiB where nobody takes the last events."""


def answer(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    """A response, and more of them if the request says so."""
    yield request
    while request == b"endless" and context.is_active():
        time.sleep(0.001)
        yield request


@pytest.fixture
def open_call() -> Iterator[Any]:
    """Calls of a channel whose reader takes the events itself."""
    handlers = {"Stream": grpc.unary_stream_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", [(ChannelOptions.SingleThreadedUnaryStream, 1)]) as channel:
        yield channel.unary_stream(METHOD)
    server.stop(0).wait()


def test_cancelled_calls_leave_nothing_behind(open_call: Any) -> None:
    """Hundreds of calls that are left early take no memory."""

    def leave_early(count: int) -> None:
        for _ in range(count):
            call = StreamCall(open_call(b"endless"))
            assert call.read() == b"endless"
            call.cancel()

    leave_early(100)
    gc.collect()
    before = psutil.Process().memory_info().rss
    leave_early(CALLS)
    gc.collect()
    assert psutil.Process().memory_info().rss - before < CALLS * MOST_BYTES_EACH


def test_reader_is_woken_by_another_thread(open_call: Any) -> None:
    """A reader that waits gets an error when somebody else cancels the call, and every later read one, too."""
    call = StreamCall(open_call(b"endless"))
    assert call.read() == b"endless"
    codes = []

    def read_on() -> None:
        try:
            read_to_the_end(call)
        except grpc.RpcError as error:
            codes.append(error.code())

    reader = threading.Thread(target=read_on)
    reader.start()
    call.cancel()
    reader.join(timeout=30)
    assert codes == [grpc.StatusCode.CANCELLED]
    with pytest.raises(grpc.RpcError):
        call.read()


def read_to_the_end(call: StreamCall) -> None:
    while call.read() is not None:
        pass


def test_interrupted_reader_can_leave(open_call: Any) -> None:
    """An interrupt that reaches a reader as an event comes may lose it; leaving waits for nothing all the same."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(5):
            call = StreamCall(open_call(b"endless"))
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                read_to_the_end(call)
            call.cancel()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_call_of_a_closed_channel_can_be_left() -> None:
    """A call whose channel was closed under it is cancelled without waiting."""
    handlers = {"Stream": grpc.unary_stream_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", [(ChannelOptions.SingleThreadedUnaryStream, 1)])
    call = StreamCall(channel.unary_stream(METHOD)(b"endless"))
    assert call.read() == b"endless"
    channel.close()
    call.cancel()
    server.stop(0).wait()


def test_end_is_none_as_often_as_it_is_asked_for(open_call: Any) -> None:
    """A call that ends by itself has no more responses, and may be cancelled all the same."""
    call = StreamCall(open_call(b"one"))
    assert call.read() == b"one"
    assert call.read() is None
    call.cancel()
    assert call.read() is None
