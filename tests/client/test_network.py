"""Names with several addresses, proxies, pings, message sizes and keys on real connections."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from fathom_client import (
    AsyncClient,
    Client,
    InvalidArgumentError,
    Keepalive,
    Limits,
    ServerError,
    ServerUnavailableError,
    StreamBrokenError,
)

from . import triton
from .grpc_server import Answering, serving


@contextmanager
def name_server(*addresses: str) -> Iterator[str]:
    """A DNS server that has these IPv4 addresses for every name; gives its address."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                query, caller = server.recvfrom(512)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5
            is_ipv4 = query[end - 4 : end - 2] == b"\0\1"
            records = [socket.inet_aton(address) for address in addresses] if is_ipv4 else []
            head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(records), 0, 0)
            body = b"".join(struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + record for record in records)
            server.sendto(head + query[12:end] + body, caller)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


class Proxy:
    """An HTTP proxy that only connects through; ``asked`` is whom it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; may be called again."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits for one
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(caller,), daemon=True).start()

    def _connect(self, caller: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += caller.recv(4096)
        method, target, _ = head.split(b"\r\n")[0].decode().split()
        assert method == "CONNECT"
        self.asked.append(target)
        host, _, port = target.rpartition(":")
        server = socket.create_connection((host, int(port)))
        caller.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=_pump, args=(server, caller), daemon=True).start()
        _pump(caller, server)


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        _hang_up(source, target)


def _hang_up(*connections: socket.socket) -> None:
    """Close both ways, which wakes whoever reads from them in another thread."""
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


async def test_addresses_of_one_name_take_turns() -> None:
    """A name with several addresses is several servers: requests go round, and pass over one that stops."""
    port = triton.free_ports(1)[0]
    first, second = Answering("first"), Answering("second")
    with name_server("127.0.0.2", "127.0.0.3") as dns, serving(second, host="127.0.0.3", port=port):
        url = f"dns://{dns}/models.test:{port}"
        with serving(first, host="127.0.0.2", port=port):
            with Client(url) as client:
                client.wait_until_ready(10)
                for _ in range(20):
                    client.generate("chat", "a")
            async with AsyncClient(url) as async_client:
                await async_client.wait_until_ready(10)
                for _ in range(20):
                    await async_client.generate("chat", "a")
            assert first.requests >= 10
            assert second.requests >= 10
        with Client(url) as client:
            client.wait_until_ready(10)
            assert {client.generate("chat", "a").text for _ in range(10)} == {"from second"}


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that is in the environment."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    opened = Proxy()
    monkeypatch.setenv("http_proxy", opened.url)
    yield opened
    opened.close()


async def test_proxy_of_the_environment_is_used(url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections go through ``http_proxy`` by CONNECT, except to the hosts of ``no_proxy``."""
    with Client(url) as client:
        assert client.generate("chat", "hello").text == "hello"
    async with AsyncClient(url) as async_client:
        assert (await async_client.generate("chat", "hello")).text == "hello"
    assert proxy.asked == [url, url]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Client(url) as client:
        assert client.generate("chat", "hello").text == "hello"
    assert proxy.asked == [url, url]


async def test_proxy_that_is_away_is_named(url: str, proxy: Proxy) -> None:
    """When nobody answers at the proxy's address, the request fails as if the server were away."""
    proxy.close()
    with Client(url) as client, pytest.raises(ServerUnavailableError, match="no server answers"):
        client.generate("chat", "hello")


class Standstill:
    """A TCP connection to a server that, once it is ``frozen``, passes on nothing more and does not hang up."""

    def __init__(self, server: str) -> None:
        self.frozen = threading.Event()
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits for one
        self._listener.close()

    def _accept(self) -> None:
        host, _, port = self._server.rpartition(":")
        while True:
            try:
                caller, _address = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((host, int(port)))
            for source, target in ((caller, server), (server, caller)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self.frozen.is_set():
                    target.sendall(data)
        except OSError:
            pass
        finally:
            _hang_up(source, target)


async def test_pings_notice_a_server_that_stands_still(url: str, ordered: Callable[..., str]) -> None:
    """A server that neither answers nor hangs up is given up by ``Keepalive``, long before the request's limit."""
    standstill = Standstill(url)
    prompt = ordered("word " * 500, delay_s=0.02)
    with Client(standstill.url, keepalive=Keepalive(interval_s=0.5, timeout_s=0.5)) as client:
        async with AsyncClient(standstill.url, keepalive=Keepalive(interval_s=0.5, timeout_s=0.5)) as async_client:
            stream, async_stream = client.stream("chat", prompt), async_client.stream("chat", prompt)
            next(stream)
            await anext(async_stream)
            standstill.frozen.set()
            reading = asyncio.to_thread(stream.result), async_stream.result()
            for outcome in await asyncio.gather(*reading, return_exceptions=True):
                assert isinstance(outcome, StreamBrokenError), outcome
                assert outcome.code == "UNAVAILABLE"
    standstill.close()


async def test_messages_beyond_the_limit_are_refused(url: str) -> None:
    """An answer larger than ``Limits`` allows fails by name, a larger request is not sent, smaller ones go through."""
    limits = Limits(max_send_bytes=4000, max_receive_bytes=2000)
    with Client(url, limits=limits) as client:
        assert client.generate("chat", "a" * 100).text == "a" * 100
        with pytest.raises(ServerError, match=r"the answer is larger than limits\.max_receive_bytes allows .*2000"):
            client.generate("chat", "a" * 3000)
        for call in (client.generate, client.embed):
            with pytest.raises(
                InvalidArgumentError, match=r"the request has \d+ bytes, and limits\.max_send_bytes allows"
            ):
                call({"generate": "chat", "embed": "minilm"}[call.__name__], "a" * 5000)
    async with AsyncClient(url, limits=limits) as async_client:
        assert (await async_client.generate("chat", "a" * 100)).text == "a" * 100
        with pytest.raises(ServerError, match="the answer is larger than"):
            await async_client.generate("chat", "a" * 3000)
        with pytest.raises(InvalidArgumentError, match="allows 4000; send less at once, or allow more"):
            await async_client.generate("chat", "a" * 5000)


async def test_key_and_metadata_go_with_every_call() -> None:
    """``api_key`` and ``metadata`` arrive with streams and unary calls of both clients."""
    server = Answering("one")
    with serving(server) as (url,):
        with Client(url, api_key="s3cret", metadata={"x-team": "blue"}) as client:
            client.generate("chat", "a")
            client.count_tokens("chat", "a")
        async with AsyncClient(url, api_key="s3cret", metadata={"x-team": "blue"}) as async_client:
            await async_client.generate("chat", "a")
            await async_client.count_tokens("chat", "a")
    assert [(each["authorization"], each["x-team"]) for each in server.metadata] == [("Bearer s3cret", "blue")] * 4


def test_key_stays_out_of_repr_and_errors() -> None:
    """A client shows which metadata it sends, not what is in it."""
    for kind in (Client, AsyncClient):
        client = kind(["a:1", "b:2"], api_key="s3cret", keepalive=Keepalive(), limits=Limits(max_send_bytes=7))
        assert "s3cret" not in repr(client)
        assert "metadata={'authorization': '***'}" in repr(client)
        assert repr(client).startswith(f"{kind.__name__}(['a:1', 'b:2'], timeout=")
        assert "limits=Limits(max_send_bytes=7" in repr(client)
    with pytest.raises(InvalidArgumentError) as caught:
        Client(api_key="s3crét")
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": []}, "url is empty; give at least one HOST:PORT"),
        ({"url": ["a:1", "b"]}, "url is 'b'; give HOST:PORT"),
        ({"url": ["a:1", "a:1"]}, "url names 'a:1' more than once"),
        ({"url": 7}, "url is 7; give HOST:PORT"),
        ({"api_key": ""}, "api_key is no printable ASCII text"),
        ({"api_key": "a", "metadata": {"authorization": "b"}}, "are the same header; give one of them"),
        ({"keepalive": 5}, "keepalive is 5; give a Keepalive"),
        ({"limits": 5}, "limits is 5; give a Limits"),
        ({"retry": 5}, "retry is 5; give a Retry"),
    ],
)
def test_connection_that_cannot_work_is_refused(arguments: dict, message: str) -> None:
    """What cannot connect is refused when the client is made, by both kinds."""
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidArgumentError, match=message):
            kind(**arguments)


def test_values_of_a_connection_are_checked() -> None:
    """Pings and limits outside their range are refused with their names."""
    with pytest.raises(InvalidArgumentError, match=r"keepalive\.interval_s is 0"):
        Keepalive(interval_s=0)
    with pytest.raises(InvalidArgumentError, match=r"limits\.max_send_bytes is 0; it must be between 1 and"):
        Limits(max_send_bytes=0)
