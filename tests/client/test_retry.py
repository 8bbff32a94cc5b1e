"""Trying again, against a server that refuses on demand."""

import grpc
import pytest

from fathom_client import AsyncClient, Client, InvalidRequestError, OverloadedError, Retry, ServerUnavailableError

from .grpc_server import Answering, Refusal, serving

FULL = Refusal(grpc.StatusCode.UNAVAILABLE, "the queue is full")
STOPPING = Refusal(grpc.StatusCode.UNAVAILABLE, "stopping")
QUICK = Retry(attempts=3, first_pause_s=0.01, longest_pause_s=0.02)


@pytest.mark.parametrize("refusal", [FULL, STOPPING], ids=["full", "stopping"])
async def test_what_no_server_took_is_tried_again(refusal: Refusal) -> None:
    """Generations, streams and unary calls come through once the server takes them, in both clients."""
    server = Answering("one")
    with serving(server) as (url,):
        with Client(url, retry=QUICK) as client:
            for call in (
                lambda: client.generate("chat", "a").text == "from one",
                lambda: [chunk.text for chunk in client.stream("chat", "a")] == ["from ", "one"],
                lambda: client.count_tokens("chat", "a") == 7,
            ):
                server.refusals += [refusal, refusal]
                assert call()
        async with AsyncClient(url, retry=QUICK) as async_client:
            server.refusals += [refusal, refusal]
            assert (await async_client.generate("chat", "a")).text == "from one"
            server.refusals += [refusal, refusal]
            assert await async_client.count_tokens("chat", "a") == 7
    assert server.requests == 15


async def test_attempts_are_counted() -> None:
    """After the last attempt the error is the server's, and without ``retry`` the first attempt is the last."""
    server = Answering("one", [FULL] * 4)
    with serving(server) as (url,):
        with Client(url, retry=QUICK) as client, pytest.raises(OverloadedError, match="the queue is full"):
            client.generate("chat", "a")
        assert server.requests == 3
        async with AsyncClient(url) as async_client:
            with pytest.raises(OverloadedError):
                await async_client.generate("chat", "a")
        assert server.requests == 4


def test_nothing_but_unavailable_is_tried_again() -> None:
    """What the server refuses for another reason is not asked twice."""
    server = Answering("one", [Refusal(grpc.StatusCode.INVALID_ARGUMENT, "no")])
    with serving(server) as (url,), Client(url, retry=QUICK) as client, pytest.raises(InvalidRequestError):
        client.generate("chat", "a")
    assert server.requests == 1


async def test_server_says_when_to_come_back() -> None:
    """The advice in ``grpc-retry-pushback-ms`` is in the error; one that the time limit forbids ends the request."""
    server = Answering("one")
    patient = Retry(attempts=2, first_pause_s=60, longest_pause_s=60)
    with serving(server) as (url,), Client(url, retry=patient) as client:
        server.refusals = [Refusal(grpc.StatusCode.UNAVAILABLE, "busy", "20")]
        assert client.generate("chat", "a").text == "from one"  # not in a minute
        for advice, seconds in (("90000", 90.0), ("-1", float("inf")), ("soon", float("inf"))):
            server.refusals = [Refusal(grpc.StatusCode.UNAVAILABLE, "busy", advice)]
            with pytest.raises(ServerUnavailableError) as caught:
                client.generate("chat", "a", timeout_s=30)
            assert caught.value.retry_after_s == seconds
        async with AsyncClient(url, retry=patient) as async_client:
            server.refusals = [Refusal(grpc.StatusCode.UNAVAILABLE, "busy", "20")]
            assert (await async_client.generate("chat", "a")).text == "from one"


def test_later_attempts_have_less_time() -> None:
    """Each attempt tells the server what is left of the request's one limit."""
    server = Answering("one", [STOPPING, STOPPING])
    with serving(server) as (url,), Client(url, retry=QUICK, timeout=20) as client:
        client.generate("chat", "a")
    first, second, third = server.timeouts_us
    assert first == 20_000_000 > second > third > 0


async def test_requests_pass_over_a_server_that_refuses() -> None:
    """Of two servers the one that takes nothing is passed over without a pause, and is left out until it is ready."""
    bad, good = Answering("bad", [STOPPING] * 100, is_ready=False), Answering("good")
    with serving(bad, good) as urls:
        with Client(urls) as client:
            assert {client.generate("chat", "a").text for _ in range(10)} == {"from good"}
            assert bad.requests <= 2
        async with AsyncClient(urls) as async_client:
            assert {(await async_client.generate("chat", "a")).text for _ in range(10)} == {"from good"}
            assert bad.requests <= 4
    assert good.requests == 20


async def test_servers_share_the_requests() -> None:
    """Two healthy servers get the same number of requests, one after the other or at once."""
    servers = Answering("a"), Answering("b")
    with serving(*servers) as urls:
        with Client(urls) as client:
            for _ in range(10):
                client.generate("chat", "a")
            for outcome in client.generate_many("chat", ["a"] * 10, concurrency=1):
                assert outcome.text.startswith("from")  # type: ignore[union-attr]
        async with AsyncClient(urls) as async_client:
            await async_client.generate_many("chat", ["a"] * 10)
    assert [server.requests for server in servers] == [15, 15]
