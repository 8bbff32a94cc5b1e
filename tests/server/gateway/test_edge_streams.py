"""Streams at the edge: timed, counted, let go of when the caller leaves, and cheap while they wait."""

import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.gateway_process import GatewayProcess

PATH = "/v1/chat/completions"
ALICE = "sk-alice-0123456789"
PATIENCE_S = 20.0
WAITING = 50
BYTES_A_STREAM = 256 << 10
"""Generous: a request, its task, and a call of gRPC."""


@pytest.fixture(scope="module")
def streaming(start_gateway: Callable[..., GatewayProcess]) -> GatewayProcess:
    """A gateway of these tests' own, whose counters others leave alone."""
    return start_gateway()


def chat(text: str, **orders: Any) -> dict[str, Any]:
    """A request to the stand-in, which answers with the text; a line of JSON before it says how to behave."""
    content = f"{json.dumps(orders)}\n{text}"
    return {"model": "chat", "messages": [{"role": "user", "content": content}], "max_tokens": 4096}


def open_stream(gateway: GatewayProcess, body: dict[str, Any], key: str = "none") -> socket.socket:
    """Ask for a stream, and read nothing."""
    data = json.dumps({"stream": True, **body}).encode()
    connection = gateway.connect()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def test_streamed_answers_are_timed_and_counted(streaming: GatewayProcess) -> None:
    """The first token's time and the tokens stand in the metrics and in the log."""
    gateway = streaming
    answer = gateway.ask("POST", PATH, {**chat("two words"), "stream": True}, {"X-Request-ID": "streamed"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(b"data: [DONE]\n\n")
    line = gateway.logged("streamed")
    assert (line["status"], line["output_tokens"], line["model"]) == (200, len("two words"), "chat")
    assert 0 < line["first_output_ms"] <= line["duration_ms"]
    assert gateway.metric("fathom_gateway_time_to_first_token_seconds_count", route=PATH) == 1
    assert gateway.metric("fathom_gateway_output_tokens_total", route=PATH) == len("two words")
    gateway.ask("POST", PATH, chat("two words"))
    assert gateway.metric("fathom_gateway_time_to_first_token_seconds_count", route=PATH) == 1
    assert gateway.metric("fathom_gateway_output_tokens_total", route=PATH) == 2 * len("two words")


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_hangs_up_is_counted_as_such(streaming: GatewayProcess, tmp_path: Path, stream: bool) -> None:
    """Before its first token, the request leaves the gateway and the model at once, as status 499."""
    gateway, hung_up = streaming, "fathom_gateway_requests_total"
    before = gateway.metric(hung_up, route=PATH, status="499")
    started, cancelled = tmp_path / "started", tmp_path / "cancelled"
    body = chat("hello", delay_s=60, started=str(started), marker=str(cancelled))
    with open_stream(gateway, {**body, "stream": stream}):
        eventually(started.exists)
        assert gateway.metric("fathom_gateway_requests_in_flight", route=PATH) == 1
    eventually(cancelled.exists)
    eventually(lambda: gateway.metric("fathom_gateway_requests_in_flight", route=PATH) == 0)
    assert gateway.metric(hung_up, route=PATH, status="499") == before + 1


def test_a_stream_that_is_left_frees_its_keys_place(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    """Who hung up in the middle of an answer may ask again."""
    gateway = start_gateway(max_concurrent_requests=1)
    with open_stream(gateway, chat("many slow words", delay_s=0.3)) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert gateway.ask("POST", PATH, chat("hello")).status == 429
    eventually(lambda: gateway.ask("POST", PATH, chat("hello")).status == 200)


def test_the_engine_learns_whose_request_it_is(
    start_gateway: Callable[..., GatewayProcess], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The key's name goes along as the client on whose behalf it works, and the caller's request id as Triton's."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"alice:{ALICE}\n")
    gateway = start_gateway(keys=str(keys))
    answer = gateway.ask("POST", PATH, chat("", echo=True), {"X-Request-ID": "mine"}, key=ALICE)
    seen = json.loads(answer.json()["choices"][0]["message"]["content"])
    assert (seen["id"], seen["parameters"]["client"]) == ("mine", "alice")


def test_waiting_streams_cost_little_and_hold_up_nobody(streaming: GatewayProcess) -> None:
    """Many streams that wait leave others in service, in bounded memory, and nothing when their callers go."""
    gateway = streaming
    assert gateway.process is not None
    gateway.ask("POST", PATH, {**chat("hello"), "stream": True})
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    with ExitStack() as stack:
        for _ in range(WAITING):
            stack.enter_context(open_stream(gateway, chat("hello", delay_s=60)))
        eventually(lambda: gateway.metric("fathom_gateway_requests_in_flight", route=PATH) == WAITING)
        assert gateway.ask("POST", PATH, chat("hello")).status == 200
        assert process.memory_info().rss - before < WAITING * BYTES_A_STREAM
    eventually(lambda: gateway.metric("fathom_gateway_requests_in_flight", route=PATH) == 0)
    eventually(lambda: gateway.metric("fathom_gateway_connections") == 1)
