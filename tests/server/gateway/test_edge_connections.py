"""Connections: nobody can hold one for nothing, and many of them cost little."""

import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import psutil
import pytest
from tests.gateway_process import GatewayProcess

PATIENCE_S = 20.0
IDLE = 1000
BYTES_A_CONNECTION = 64 << 10
"""Generous: a connection without a request holds a parser and its timers."""


@pytest.fixture(scope="module")
def hasty(start_gateway: Callable[..., GatewayProcess]) -> GatewayProcess:
    """A gateway that waits half a second for anything."""
    return start_gateway(header_timeout_s=0.5, body_timeout_s=0.5, keep_alive_s=1)


def read_to_end(connection: socket.socket) -> bytes:
    """What the server sends before it closes; it must close."""
    connection.settimeout(PATIENCE_S)
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def test_a_head_that_trickles_in_is_given_up(hasty: GatewayProcess) -> None:
    """A byte now and then does not buy more time; the answer says what was too slow."""
    with hasty.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        deadline = time.monotonic() + PATIENCE_S
        while not select.select([connection], [], [], 0.05)[0]:
            assert time.monotonic() < deadline, "the gateway reads on"
            connection.sendall(b"a")
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"slow_request" in answer


def test_a_connection_that_asks_nothing_is_closed_without_a_word(hasty: GatewayProcess) -> None:
    """Neither a new connection nor one that has been answered stays open for nothing."""
    with hasty.connect() as connection:
        assert read_to_end(connection) == b""
    with hasty.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_to_end(connection).startswith(b"HTTP/1.1 200 ")


def test_the_second_head_of_a_connection_is_limited_like_the_first(hasty: GatewayProcess) -> None:
    """A first good request buys no time for half of another."""
    with hasty.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        while not connection.recv(65536).endswith(b"}"):
            pass
        connection.sendall(b"GET /health/live HT")
        assert read_to_end(connection).startswith(b"HTTP/1.1 408 ")


def test_a_caller_that_does_not_read_is_cut_off(hasty: GatewayProcess) -> None:
    """An answer that nobody reads is held for a while, and then let go of."""
    body = b'{"model": "minilm", "input": [' + b",".join([b'"a"'] * 2048) + b"]}"
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with ExitStack() as stack:
        connection = stack.enter_context(socket.socket())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hasty.port))
        for _ in range(200):  # as many as it takes to fill the kernel's buffers
            try:
                connection.sendall(head % len(body) + body)
            except OSError:
                break
        _eventually(lambda: hasty.metric("fathom_gateway_rejected_total", reason="reader") > 0)
        _eventually(lambda: hasty.metric("fathom_gateway_requests_in_flight", route="/v1/embeddings") == 0)


def test_one_connection_too_many_is_turned_away(start_gateway: Callable[..., GatewayProcess]) -> None:
    """It is told so at once; when another one goes, the next is served."""
    gateway = start_gateway(max_connections=5)
    with ExitStack() as stack:
        held = [stack.enter_context(gateway.connect()) for _ in range(5)]
        for connection in held:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        with gateway.connect() as refused:
            answer = read_to_end(refused)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer.lower()
        assert b"too_many_connections" in answer
        held[0].close()
        _eventually(lambda: gateway.ask("GET", "/health/live").status == 200)


def test_idle_connections_cost_little_and_hold_up_nobody(start_gateway: Callable[..., GatewayProcess]) -> None:
    """A thousand connections that ask nothing leave the gateway in service, in bounded memory, and are forgotten."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * IDLE), hard))
    gateway = start_gateway(header_timeout_s=60)
    assert gateway.process is not None
    gateway.ask("GET", "/health/ready")
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    with ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(gateway.connect())
        assert gateway.ask("GET", "/health/ready").status == 200
        _eventually(lambda: gateway.metric("fathom_gateway_connections") == IDLE + 1)
        assert process.memory_info().rss - before < IDLE * BYTES_A_CONNECTION
    _eventually(lambda: gateway.metric("fathom_gateway_connections") == 1)


def test_more_connections_than_files_are_refused_at_the_start() -> None:
    """What the system would not allow is said before anything listens."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256));"
        "from fathom_server.gateway.edge.http_protocol import allow_connections;"
        "from fathom_server.gateway.settings import GatewaySettings;"
        "allow_connections(GatewaySettings(max_connections=4096))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "max_connections is 4096, and this process may open 256 files" in done.stderr


def _eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.1)
