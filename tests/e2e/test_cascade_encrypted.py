"""Small beside large where the server's gRPC speaks TLS alone: a cascade asks its own Triton through it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.client.certificates import Certificates, issue
from tests.e2e.cascade_deployment import CASCADE_BUNDLE, EASY, HARD, ask
from tests.e2e.conftest import exported
from tests.serving import FathomServe

from fathom_client import Client, ServerUnavailableError, Tls
from fathom_server.cascade.settings import CascadeSettings

MODELS = Path("examples/models").resolve()
RERANKER = Path("tests/client/repository/reranker").resolve()


@pytest.fixture(scope="module")
def cascades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two cascades over the same LLMs: ``chat``, and ``judged``, whose signal is a reranker's score."""
    repository = exported(tmp_path_factory.mktemp("cascades"), CASCADE_BUNDLE.format(models=MODELS))
    for unused in ("small_ensemble", "large_ensemble"):
        shutil.rmtree(repository / unused)
    shutil.copytree(RERANKER, repository / "reranker")
    shutil.copytree(repository / "chat", repository / "judged")
    config = repository / "judged" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "chat"', 'name: "judged"', 1))
    [version] = (repository / "judged").glob("*/cascade.json")
    settings = CascadeSettings.load(version.parent)
    replace(settings, signal="verifier", verifier="reranker", threshold=0.9).save(version.parent)
    return repository


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of an authority that nobody else knows; trustme's are for servers and clients."""
    return issue(tmp_path_factory.mktemp("certificates"))


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A server whose gRPC is encrypted, and a client of it."""

    server: FathomServe
    client: Client


@pytest.fixture(scope="module", params=["certificate", "callers' certificates, too"])
def encrypted(
    request: pytest.FixtureRequest,
    cascades: Path,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Encrypted]:
    """The cascades behind TLS, and behind TLS that asks callers for a certificate."""
    flags = ["--tls-cert", str(certificates.server), "--tls-key", str(certificates.server_key)]
    tls = Tls(certificates.ca)
    if request.param != "certificate":
        flags += ["--tls-client-ca", str(certificates.ca)]
        tls = Tls(certificates.ca, certificates.client, certificates.client_key)
    with (
        FathomServe(cascades, tmp_path_factory.mktemp("serve"), tuple(flags)) as server,
        Client(server.url, tls=tls) as client,
    ):
        yield Encrypted(server, client)


@pytest.mark.parametrize("streams", [True, False])
def test_both_models_are_asked_through_the_encryption(encrypted: Encrypted, *, streams: bool) -> None:
    """What the small model knows is its own answer, what it doubts is the large one's, and neither is unavailable."""
    client = encrypted.client
    for prompt, answered_by, reason in ((EASY, "small", "trusted"), (HARD, "large", "doubted")):
        alone = client.chat(answered_by, ask(prompt), max_tokens=32)
        if streams:
            answer = client.stream_chat("chat", ask(prompt), max_tokens=32).result()
        else:
            answer = client.chat("chat", ask(prompt), max_tokens=32)
        assert (answer.text, answer.token_ids) == (alone.text, alone.token_ids)
        assert answer.cascade is not None
        assert (answer.cascade["answered_by"], answer.cascade["reason"]) == (answered_by, reason)


def test_encoders_are_asked_through_the_encryption(encrypted: Encrypted) -> None:
    """A verifier's score, which goes by another connection, is there as well."""
    answer = encrypted.client.chat("judged", ask(EASY), max_tokens=32)
    assert answer.cascade is not None
    assert answer.cascade["signal"] == "verifier"
    assert 0 <= answer.cascade["value"] < 0.9
    assert (answer.cascade["answered_by"], answer.cascade["reason"]) == ("large", "doubted")


def test_nobody_else_is_let_in_for_the_cascades_sake(encrypted: Encrypted, certificates: Certificates) -> None:
    """Beside a cascade gRPC still takes no caller in the clear, and none that believes another authority."""
    for tls in (None, Tls(certificates.stranger)):
        with (
            Client(encrypted.server.url, tls=tls, retry=None) as client,
            pytest.raises(ServerUnavailableError),
        ):
            client.chat("chat", ask(EASY), max_tokens=1)


def test_cascade_that_would_not_be_let_in_is_refused(cascades: Path, certificates: Certificates) -> None:
    """Where callers' certificates are signed by another than the server's, the launcher says so before it starts."""
    command = [sys.executable, "-m", "fathom_server.cli", str(cascades), "--ports", "auto"]
    command += ["--tls-cert", str(certificates.server), "--tls-key", str(certificates.server_key)]
    command += ["--tls-client-ca", str(certificates.stranger)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: chat is a cascade, which asks its models over this server's own gRPC")
    assert f"which --tls-client-ca {certificates.stranger} does not let in" in line
