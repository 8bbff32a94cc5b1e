"""Encrypted connections to a real server, which may want to know who we are; and models loaded on demand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fathom_client import (
    AsyncClient,
    Client,
    InvalidArgumentError,
    InvalidRequestError,
    ModelNotFoundError,
    Readiness,
    ServerUnavailableError,
    Tls,
)

from . import triton
from .certificates import Certificates, issue
from .conftest import REPOSITORY


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority for this module's servers and clients."""
    return issue(tmp_path_factory.mktemp("certificates"))


def start(folder: Path, certificates: Certificates, *arguments: str) -> triton.Triton:
    """A server with a certificate, whose models wait to be loaded."""
    return triton.start(
        REPOSITORY,
        folder,
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={certificates.server}",
        f"--grpc-server-key={certificates.server_key}",
        "--model-control-mode=explicit",
        "--load-model=minilm",
        *arguments,
    )


@pytest.fixture(scope="module")
def encrypted(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with a certificate."""
    server = start(tmp_path_factory.mktemp("encrypted"), certificates)
    yield server.url
    server.kill()


@pytest.fixture(scope="module")
def mutual(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that takes only clients with a certificate of the same authority."""
    flags = "--grpc-use-ssl-mutual=true", f"--grpc-root-cert={certificates.ca}"
    server = start(tmp_path_factory.mktemp("mutual"), certificates, *flags)
    yield server.url
    server.kill()


async def test_encrypted_connection_serves(encrypted: str, certificates: Certificates) -> None:
    """With the authority that signed the server's certificate, given as a file or as bytes, both clients work."""
    for ca in (certificates.ca, str(certificates.ca), certificates.ca.read_bytes()):
        with Client(encrypted, tls=Tls(ca=ca)) as client:
            assert client.embed("minilm", ["a", "b"]).vectors.shape == (2, 8)
    async with AsyncClient(encrypted, tls=Tls(ca=certificates.ca)) as async_client:
        assert (await async_client.embed("minilm", "a")).vectors.shape == (1, 8)


async def test_certificate_is_for_a_name(encrypted: str, certificates: Certificates) -> None:
    """``server_name`` is what the certificate must say, wherever the server is reached."""
    with Client(encrypted, tls=Tls(ca=certificates.ca, server_name="triton.test")) as client:
        assert client.is_ready()
    async with AsyncClient(encrypted, tls=Tls(ca=certificates.ca, server_name="triton.test")) as async_client:
        assert await async_client.is_ready()
    with Client(encrypted, tls=Tls(ca=certificates.ca, server_name="other.test")) as client:
        assert not client.is_live()


async def test_server_of_another_authority_is_not_believed(encrypted: str, certificates: Certificates) -> None:
    """A certificate that the given authority, or none that gRPC knows, has signed is refused, and the error says so."""
    for tls in (Tls(ca=certificates.stranger), Tls()):
        with (
            Client(encrypted, tls=tls) as client,
            pytest.raises(ServerUnavailableError, match=r"TLS with .* failed .*CERTIFICATE_VERIFY_FAILED.*tls\.ca"),
        ):
            client.embed("minilm", "a")
        async with AsyncClient(encrypted, tls=tls) as async_client:
            with pytest.raises(ServerUnavailableError, match="TLS"):
                await async_client.embed("minilm", "a")


def test_encryption_on_one_side_only_is_named(encrypted: str, url: str, certificates: Certificates) -> None:
    """A plain client of an encrypted server, and the other way round, fail with a word on encryption."""
    with Client(encrypted) as client, pytest.raises(ServerUnavailableError, match="tls"):
        client.embed("minilm", "a")
    with Client(url, tls=Tls(ca=certificates.ca)) as client, pytest.raises(ServerUnavailableError, match="TLS with"):
        client.embed("minilm", "a")


async def test_server_wants_our_certificate(mutual: str, certificates: Certificates) -> None:
    """With mutual TLS a client with certificate and key is served, and one without is not."""
    tls = Tls(certificates.ca, certificates.client, certificates.client_key)
    with Client(mutual, tls=tls) as client:
        assert client.embed("minilm", ["a"]).vectors.shape == (1, 8)
    async with AsyncClient(mutual, tls=tls) as async_client:
        assert await async_client.is_ready("minilm")
    with Client(mutual, tls=Tls(certificates.ca)) as client, pytest.raises(ServerUnavailableError):
        client.embed("minilm", "a")


async def test_models_are_loaded_and_unloaded(encrypted: str, certificates: Certificates) -> None:
    """A model is there from its load to its unload, through both clients, and waiting tells how far the server is."""
    tls = Tls(certificates.ca)
    with Client(encrypted, tls=tls) as client:
        with pytest.raises(ModelNotFoundError, match="it is in the repository and is not loaded"):
            client.generate("chat", "hello")
        client.load_model("chat")
        assert client.generate("chat", "hello").text == "hello"
        seen: list[Readiness] = []
        client.wait_until_ready(10, "chat", progress=seen.append)
        assert seen[-1].reason is None
        assert ("chat", "READY") in [(model.name, model.state) for model in seen[-1].models]
        client.unload_model("chat")
        assert not client.is_ready("chat")
        with pytest.raises(InvalidRequestError, match="nobody"):
            client.load_model("nobody")
    async with AsyncClient(encrypted, tls=tls) as async_client:
        await async_client.load_model("moods", timeout_s=60)
        assert await async_client.is_ready("moods")
        await async_client.unload_model("moods", with_dependents=True)
        assert not await async_client.is_ready("moods")


def test_server_that_loads_by_itself_says_so(client: Client) -> None:
    """A server that is not in explicit mode refuses to load and unload, with the flag that it needs."""
    for order in (client.load_model, client.unload_model):
        with pytest.raises(InvalidRequestError, match=r"not allowed.*--model-control-mode=explicit"):
            order("chat")


def test_tls_that_cannot_work_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    """Files that are missing, of another kind, damaged or not each other's are named before anything connects."""
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n")
    c = certificates
    locked = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
    for arguments, message in (
        ({"ca": tmp_path / "none.pem"}, r"tls.ca cannot be read: .*none.pem"),
        ({"ca": c.server_key}, r"tls.ca \(.*\) holds no PEM block of a certificate"),
        ({"ca": damaged}, r"tls.ca \(.*damaged.pem\) holds a damaged certificate"),
        ({"ca": 7}, "tls.ca is a int; give a file's path, or its PEM as bytes"),
        ({"certificate": c.client}, "tls.certificate is given without tls.key"),
        ({"key": c.client_key}, "tls.key is given without tls.certificate"),
        ({"certificate": c.client, "key": c.server_key}, r"tls.key \(.*\) is not the key of tls.certificate"),
        ({"certificate": c.client, "key": c.client}, "holds no PEM block of a private key|is not the key"),
        ({"certificate": c.client, "key": locked}, "tls.key has a password"),
        ({"server_name": ""}, "tls.server_name is empty"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            Tls(**arguments)  # type: ignore[arg-type]
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidArgumentError, match="tls is True; give a Tls"):
            kind(tls=True)  # type: ignore[arg-type]


def test_key_stays_out_of_repr(certificates: Certificates) -> None:
    """A client shows that it encrypts, and nothing of the key."""
    client = Client(tls=Tls(certificates.ca, certificates.client, certificates.client_key, "triton.test"))
    assert "tls=Tls(ca=..., certificate=..., key=..., server_name='triton.test')" in repr(client)
    assert "BEGIN" not in repr(client)
    client.close()
