"""A cascade gets past its own server's encryption, believes that server alone, and is refused where it could not."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from grpc import aio

from fathom_server.cascade.address import (
    CERTIFICATE_VARIABLE,
    GRPC_VARIABLE,
    KEY_VARIABLE,
    NAME_VARIABLE,
    OwnServer,
    own_server,
)
from fathom_server.cascade.model_behind import ModelBehind
from fathom_server.errors import QueueFullError, SettingsError
from fathom_server.launcher.own_connection import OwnConnection
from fathom_server.launcher.repository_check import cascades_of

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM files of a certificate with its chain, and of its key."""

    certificate: Path
    key: Path


Issue = Callable[..., Pair]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs, by another that it has signed."""
    return trustme.CA().create_child_ca()


@pytest.fixture
def issue(authority: trustme.CA, tmp_path: Path) -> Issue:
    """Writes a certificate for names, by this authority or another."""

    def made(*names: str, by: trustme.CA = authority, **options: datetime) -> Pair:
        leaf = by.issue_cert(*names, **options)
        number = len(list(tmp_path.iterdir()))
        pair = Pair(tmp_path / f"{number}.pem", tmp_path / f"{number}-key.pem")
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(pair.key)
        return pair

    return made


@pytest.fixture
def authority_file(authority: trustme.CA, tmp_path: Path) -> Path:
    """The authority's own certificate."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    return tmp_path / "authority.pem"


def self_signed(folder: Path) -> Pair:
    """A certificate with a common name and no other, as hands make them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "triton.test")])
    today = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today - timedelta(days=1)).not_valid_after(today + timedelta(days=1))
    signed = builder.sign(key, SHA256())
    pair = Pair(folder / "self.pem", folder / "self-key.pem")
    pair.certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return pair


async def what_comes_back(
    monkeypatch: pytest.MonkeyPatch, connection: OwnConnection, shown: Pair, client_ca: Path | None = None
) -> str:
    """The error of a cascade that was told ``connection``, asking a gRPC server that shows ``shown``.

    The server knows no method, so whoever reaches it is told that.
    """
    server = aio.server()
    pair = shown.key.read_bytes(), shown.certificate.read_bytes()
    roots = None if client_ca is None else client_ca.read_bytes()
    credentials = grpc.ssl_server_credentials([pair], roots, require_client_auth=client_ca is not None)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    for name in (CERTIFICATE_VARIABLE, NAME_VARIABLE, KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**connection.environment, GRPC_VARIABLE: f"127.0.0.1:{port}"}.items():
        monkeypatch.setenv(name, value)
    own = own_server()
    model = ModelBehind("small", own.url, own.tls)
    try:
        with pytest.raises(QueueFullError) as error:
            await anext(model.ask("1", {}, {}, 20.0))
        return str(error.value)
    finally:
        await model.close()
        await server.stop(None)


@pytest.mark.parametrize(
    ("names", "asked_as"),
    [
        (["10.1.2.3", "triton.test"], "triton.test"),
        (["*.prod.svc", "10.1.2.3"], "10.1.2.3"),
        (["*.prod.svc"], "cascade.prod.svc"),
        (["::1"], "::1"),
    ],
)
async def test_server_is_asked_by_a_name_of_its_certificate(
    monkeypatch: pytest.MonkeyPatch, issue: Issue, names: list[str], asked_as: str
) -> None:
    """Whatever a certificate is for, a server that shows it is reached at its loopback address."""
    pair = issue(*names)
    connection = OwnConnection.tried("chat", pair.certificate, pair.key, None)
    assert connection == OwnConnection(pair.certificate, asked_as)
    assert "Method not found" in await what_comes_back(monkeypatch, connection, pair)


async def test_common_name_counts_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A certificate that signs itself, with a common name alone, is one that a cascade can ask."""
    pair = self_signed(tmp_path)
    connection = OwnConnection.tried("chat", pair.certificate, pair.key, None)
    assert connection.name == "triton.test"
    assert "Method not found" in await what_comes_back(monkeypatch, connection, pair)


async def test_another_server_is_not_believed(monkeypatch: pytest.MonkeyPatch, issue: Issue) -> None:
    """Who took the port, even with a certificate for the same name by the same authority, gets no prompt."""
    own, other = issue("triton.test"), issue("triton.test")
    connection = OwnConnection.tried("chat", own.certificate, own.key, None)
    assert "CERTIFICATE_VERIFY_FAILED" in await what_comes_back(monkeypatch, connection, other)


async def test_callers_own_certificate_is_the_servers(
    monkeypatch: pytest.MonkeyPatch, issue: Issue, authority_file: Path
) -> None:
    """Where callers are asked for a certificate of an authority that signed the server's, a cascade shows that."""
    pair = issue("triton.test")
    connection = OwnConnection.tried("chat", pair.certificate, pair.key, authority_file)
    assert connection.key == pair.key
    assert "Method not found" in await what_comes_back(monkeypatch, connection, pair, authority_file)
    without = OwnConnection(pair.certificate, "triton.test")
    assert "Method not found" not in await what_comes_back(monkeypatch, without, pair, authority_file)


def test_connections_that_cannot_be_are_refused(issue: Issue, authority_file: Path, tmp_path: Path) -> None:
    """Certificates that nobody believes, without a name, or not let in are named with what to do."""
    stranger = issue("triton.test", by=trustme.CA())
    for pair, client_ca, words in (
        (issue("old.test", not_before=LONG_AGO, not_after=LONG_AGO + timedelta(days=9)), None, "has expired"),
        (issue("someone@mail.test"), None, "holds no name that gRPC could look for"),
        (issue("*.local"), None, "holds no name that gRPC could look for"),
        (stranger, authority_file, r"--tls-client-ca .*authority.pem does not let in .*signed for clients, too"),
        (self_signed(tmp_path), authority_file, "does not let in"),
    ):
        with pytest.raises(SettingsError, match=rf"chat is a cascade, .*{words}.*or serve without the cascade"):
            OwnConnection.tried("chat", pair.certificate, pair.key, client_ca)


def test_certificate_in_another_form_is_refused(issue: Issue, tmp_path: Path) -> None:
    """OpenSSL's form with trust settings, which cannot be handed to gRPC as an authority, is refused by name."""
    pair = issue("triton.test")
    other = tmp_path / "other.pem"
    other.write_bytes(pair.certificate.read_bytes().replace(b" CERTIFICATE--", b" X509 CERTIFICATE--"))
    with pytest.raises(SettingsError, match="holds no -----BEGIN CERTIFICATE-----"):
        OwnConnection.tried("chat", other, pair.key, None)


def test_without_variables_the_server_is_asked_in_the_clear(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Triton that nobody encrypted is asked at its own port; a certificate that is gone ends the cascade's load."""
    for name in (GRPC_VARIABLE, CERTIFICATE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    assert own_server() == OwnServer("127.0.0.1:8001", None)
    monkeypatch.setenv(CERTIFICATE_VARIABLE, str(tmp_path / "gone.pem"))
    with pytest.raises(SettingsError, match=r"gone\.pem, with which this server cannot be asked"):
        own_server()


def test_cascades_are_known_by_their_backend(tmp_path: Path) -> None:
    """Only models of the backend cascade ask their own server."""
    for model, backend in (("small", "fathom"), ("chat", "cascade")):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.pbtxt").write_text(f'name: "{model}"\nbackend: "{backend}"\n')
    assert cascades_of(tmp_path, ["chat", "small"]) == ("chat",)
