"""Health, metadata, and waiting for a server."""

import threading
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import pytest

from fathom_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    ModelInfo,
    ModelNotFoundError,
    TensorMetadata,
    Timeout,
)

from . import triton
from .conftest import REPOSITORY

AWAY = "127.0.0.1:1"

DAMAGED_MODEL = """
class TritonPythonModel:
    def initialize(self, args):
        raise ValueError("the weights are damaged")
"""


@pytest.fixture(scope="module")
def half_ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with a model whose loading fails."""
    folder = tmp_path_factory.mktemp("half-ready")
    copytree(REPOSITORY, folder / "repository")
    damaged = folder / "repository" / "damaged"
    (damaged / "1").mkdir(parents=True)
    tensor = '[{ name: "x", data_type: TYPE_INT32, dims: [ 1 ] }]'
    (damaged / "config.pbtxt").write_text(f'backend: "python"\ninput {tensor}\noutput {tensor.replace("x", "y")}\n')
    (damaged / "1" / "model.py").write_text(DAMAGED_MODEL)
    server = triton.start(folder / "repository", folder / "run")
    yield server.url
    server.stop()


async def test_running_server_is_live_and_ready(client: Client, async_client: AsyncClient) -> None:
    """A server whose models are loaded is live and ready, as a whole and by model."""
    client.wait_until_ready(5)
    client.wait_until_ready(5, model="chat")
    await async_client.wait_until_ready(5)
    assert client.is_live()
    assert await async_client.is_live()
    for model in (None, "chat", "minilm"):
        assert client.is_ready(model)
        assert await async_client.is_ready(model)
    assert not client.is_ready("nobody")
    assert not await async_client.is_ready("nobody")


async def test_metadata_is_typed(client: Client, async_client: AsyncClient) -> None:
    """Models, server and tensors come as values, the same from both clients."""
    names = ("chat", "minilm", "moods", "reranker")
    assert client.models() == tuple(ModelInfo(name, "1", "READY", "") for name in names)
    assert client.server_metadata().name == "triton"
    metadata = client.model_metadata("minilm")
    assert TensorMetadata("text_input", "BYTES", (-1, 1)) in metadata.inputs
    assert TensorMetadata("sentence_embedding", "FP32", (-1, 8)) in metadata.outputs
    assert (metadata.name, metadata.versions, metadata.platform) == ("minilm", ("1",), "python")
    assert await async_client.models() == client.models()
    assert await async_client.server_metadata() == client.server_metadata()
    assert await async_client.model_metadata("minilm") == metadata


async def test_server_that_is_away_is_not_live() -> None:
    """Health of a server that is away is no error, and waiting for it ends with the reason."""
    with Client(AWAY) as client:
        assert not client.is_live()
        assert not client.is_ready()
        assert not client.is_ready("chat")
        with pytest.raises(DeadlineExceededError, match=r"not ready after 0\.3 s: no server answers at 127\.0\.0\.1:1"):
            client.wait_until_ready(0.3)
    async with AsyncClient(AWAY) as async_client:
        assert not await async_client.is_live()
        assert not await async_client.is_ready("chat")
        with pytest.raises(DeadlineExceededError, match="no server answers"):
            await async_client.wait_until_ready(0.3)


def test_model_that_failed_to_load_is_explained(half_ready: str) -> None:
    """A model that did not load makes the server not ready, with the reason in every answer about it."""
    with Client(half_ready) as client:
        assert client.is_live()
        assert not client.is_ready()
        assert client.is_ready("chat")
        assert not client.is_ready("damaged")
        (info,) = [each for each in client.models() if each.name == "damaged"]
        assert not info.is_ready
        assert "the weights are damaged" in info.reason
        for model in (None, "damaged"):
            with pytest.raises(DeadlineExceededError, match=r"damaged is UNAVAILABLE .*the weights are damaged"):
                client.wait_until_ready(0.2, model)
        with pytest.raises(DeadlineExceededError, match="has no model 'nobody'; it has: chat, damaged, minilm"):
            client.wait_until_ready(0.2, "nobody")
        with pytest.raises(ModelNotFoundError, match=r"is UNAVAILABLE: .*the weights are damaged"):
            client.generate("damaged", "hello")
        with pytest.raises(ModelNotFoundError, match="models that are ready: chat, minilm"):
            client.model_metadata("nobody")


def test_waiting_begins_before_the_server_does(tmp_path: Path) -> None:
    """A client may wait for a server that is started after it."""
    port = triton.free_ports(1)[0]
    waited = threading.Event()
    with Client(f"127.0.0.1:{port}", timeout=Timeout(connect_s=1)) as client:

        def wait() -> None:
            client.wait_until_ready(60, "chat")
            waited.set()

        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        server = triton.start(REPOSITORY, tmp_path, grpc_port=port)
        try:
            assert waited.wait(30)
            assert client.generate("chat", "hello").text == "hello"
        finally:
            server.stop()
            waiter.join()
