"""Several real servers, one of which dies under load and comes back."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fathom_client import AsyncClient, Client, FathomError, Generation, ServerUnavailableError, StreamBrokenError

from . import triton
from .conftest import REPOSITORY
from .test_embed import expected

WORDS = 40
PROMPT = json.dumps({"delay_s": 0.01}) + "\n" + "word " * WORDS


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[triton.Triton]]:
    """Two servers of the same models; the first test kills one and starts it again, the second leaves one."""
    running: list[triton.Triton] = []
    try:
        for name in ("one", "other"):
            running += [triton.start(REPOSITORY, tmp_path_factory.mktemp(name))]  # the first ends if the second fails
        yield running
    finally:
        for server in running:
            server.kill()


class Load:
    """Streams one after the other in threads and tasks, until it is told to stop; keeps what became of each."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.is_over = threading.Event()
        self.answers: list[str] = []
        self.broken: list[tuple[int, FathomError]] = []
        self.failed: list[FathomError] = []

    def threads(self, count: int) -> None:
        """Read streams of one Client in threads."""
        with Client(self.urls, timeout=30) as client:

            def read() -> None:
                while not self.is_over.is_set():
                    texts: list[str] = []
                    try:
                        with client.stream("chat", PROMPT) as stream:
                            for chunk in stream:  # not at once: what came before an error counts
                                texts += [chunk.text]
                    except FathomError as error:
                        self.lose(texts, error)
                    else:
                        self.answers.append("".join(texts))

            readers = [threading.Thread(target=read) for _ in range(count)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()

    async def tasks(self, count: int) -> None:
        """Read streams of one AsyncClient in tasks."""
        async with AsyncClient(self.urls, timeout=30) as client:

            async def read() -> None:
                while not self.is_over.is_set():
                    texts: list[str] = []
                    try:
                        async for chunk in client.stream("chat", PROMPT):
                            texts.append(chunk.text)  # noqa: PERF401 # what came before an error counts
                    except FathomError as error:
                        self.lose(texts, error)
                    else:
                        self.answers.append("".join(texts))

            await asyncio.gather(*(read() for _ in range(count)))

    def lose(self, texts: list[str], error: FathomError) -> None:
        """Note a stream that ended in an error."""
        if texts:
            self.broken.append((len(texts), error))
        else:
            self.failed.append(error)


def answered(server: triton.Triton) -> int:
    """How many requests a server has answered, by its own count."""
    with Client(server.url) as client:
        client.wait_until_ready(10)
    return server.successes("chat")


async def test_server_that_dies_fails_no_request_that_had_not_begun(
    servers: list[triton.Triton], tmp_path: Path
) -> None:
    """Under load from both clients, a killed server breaks only streams in the middle, by an error, and comes back."""
    load = Load([server.url for server in servers])
    running = asyncio.gather(asyncio.to_thread(load.threads, 8), load.tasks(8))
    try:
        while len(load.answers) < 32:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(servers[0].kill)
        count = len(load.answers)
        while len(load.answers) < count + 32:
            await asyncio.sleep(0.02)
        servers[0] = await asyncio.to_thread(
            triton.start, REPOSITORY, tmp_path / "again", grpc_port=servers[0].grpc_port
        )
        while await asyncio.to_thread(answered, servers[0]) < 8:  # it has its share again
            await asyncio.sleep(0.1)
    finally:
        load.is_over.set()
        await running
    assert load.failed == []
    assert set(load.answers) == {"word " * WORDS}
    assert 1 <= len(load.broken) <= 16
    for chunks, error in load.broken:
        assert isinstance(error, StreamBrokenError)
        assert f"broke off after {5 * chunks} tokens" in str(error)


async def test_batches_pass_over_to_the_other_server(servers: list[triton.Triton]) -> None:
    """A server that dies in the middle of an ``embed`` costs none of its batches: vectors do not stream."""
    urls = [server.url for server in servers]
    texts = [f"slow {number}" for number in range(6)]
    with Client(urls) as client:
        embedding = asyncio.ensure_future(asyncio.to_thread(client.embed, "minilm", texts, batch_size=1))
        async with AsyncClient(urls) as async_client:
            async_embedding = asyncio.ensure_future(async_client.embed("minilm", texts, batch_size=1))
            await asyncio.sleep(0.7)  # some are answered, some run, some wait
            await asyncio.to_thread(servers[1].kill)
            for embeddings in (await embedding, await async_embedding):
                np.testing.assert_array_equal(embeddings.vectors, np.stack([expected(text) for text in texts]))
            assert isinstance(await async_client.generate("chat", "hello"), Generation)
            assert client.is_ready()
            assert await async_client.is_ready("chat")
        assert client.embed("minilm", texts[:1]).vectors.shape == (1, 8)


async def test_when_all_are_away_the_error_says_so() -> None:
    """With no server left the request fails at once, naming one that was tried."""
    urls = ["127.0.0.1:1", "127.0.0.1:2"]
    with Client(urls) as client:
        with pytest.raises(ServerUnavailableError, match=r"no server answers at 127\.0\.0\.1:[12] .*refused"):
            client.generate("chat", "a")
        assert not client.is_live()
    async with AsyncClient(urls) as async_client:
        with pytest.raises(ServerUnavailableError, match="no server answers"):
            await async_client.embed("minilm", ["a"])
