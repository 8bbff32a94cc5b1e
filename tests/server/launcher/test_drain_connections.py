"""What the kernel says of connections, by which a stop tells those that wait for an answer from those that idle."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fathom_server.launcher.connections import Connection, connections

TICK_S = 0.02
"""Longer than the kernel's own clock for what was last sent and received."""


@contextmanager
def connected() -> Iterator[tuple[int, socket.socket, socket.socket]]:
    """A port, and both ends of a connection to it: the client's and the server's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as client,
    ):
        server, _ = listening.accept()
        with server:
            yield listening.getsockname()[1], client, server


def idle(port: int) -> bool:
    """Whether the only connection to the port waits for its client."""
    found = connections({port})
    assert found is not None
    [connection] = found
    assert connection.port == port
    return connection.is_idle


def test_connection_waits_between_request_and_answer() -> None:
    """It idles until something came, not while that is unread or unanswered, and again after the answer."""
    with connected() as (port, client, server):
        assert idle(port)
        time.sleep(TICK_S)
        client.sendall(b"request")
        assert not idle(port), "nobody has read it yet"
        server.recv(16)
        assert not idle(port), "nobody has answered yet"
        time.sleep(TICK_S)
        server.sendall(b"answer")
        assert client.recv(16) == b"answer"
        assert idle(port)
        time.sleep(TICK_S)
        client.sendall(b"another")
        server.recv(16)
        assert not idle(port)


def test_answer_that_its_client_does_not_read_keeps_a_connection_busy() -> None:
    """What has not reached the other side is not answered yet, however long ago it was sent."""
    with connected() as (port, client, server):
        client.sendall(b"request")
        server.recv(16)
        server.setblocking(False)
        try:
            while True:
                server.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        assert not idle(port)


def test_only_the_side_that_listens_counts() -> None:
    """Of a port nobody uses there is nothing, and a connection goes when its client does."""
    with connected() as (port, client, server):
        assert connections({port + 1, client.getsockname()[1] + 1}) == ()
        assert connections({port}) == (Connection(port, is_idle=True),)
        client.close()
        server.close()
        assert connections({port}) == ()
