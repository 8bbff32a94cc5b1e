"""How ``fathom-client`` reaches a server: addresses, keys and headers, retries, from flags and variables."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from . import triton
from .certificates import Certificates, issue
from .grpc_server import Answering, Refusal, serving

Run = Callable[..., subprocess.CompletedProcess[str]]

VARIABLES = ("FATHOM_URL", "FATHOM_API_KEY", "FATHOM_TLS_CA", "FATHOM_TLS_CERTIFICATE", "FATHOM_TLS_KEY")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``fathom-client`` with variables of its own and no others."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def start(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return subprocess.run(
            [sys.executable, "-m", "fathom_client.cli", *arguments], capture_output=True, text=True, timeout=60
        )

    return start


def test_address_comes_from_flag_or_variable(run: Run) -> None:
    """``--url`` goes before FATHOM_URL, wherever it stands; several addresses stand between commas."""
    one, two = Answering("one"), Answering("two")
    with serving(one, two) as (first, second):
        assert run("generate", "a", FATHOM_URL=first).stdout == "from one\n"
        assert run("generate", "a", "--url", second).stdout == "from two\n"
        assert run("--url", second, "generate", "a").stdout == "from two\n"
        assert run("generate", "a", "--url", f"127.0.0.1:1,{second}").stdout == "from two\n"
    done = run("generate", "a", FATHOM_URL="http://localhost:8000")
    assert done.stderr.startswith("error: url is 'http://localhost:8000'; give HOST:PORT of the gRPC service")
    assert done.returncode == 2


def test_key_comes_from_file_or_variable(run: Run, tmp_path: Path) -> None:
    """The key goes as a bearer token with every call, that of ``--api-key-file`` before FATHOM_API_KEY's."""
    (tmp_path / "key").write_text("from-file\n")
    server = Answering("one")
    with serving(server) as (url,):
        run("generate", "a", "--url", url)
        run("generate", "a", "--url", url, FATHOM_API_KEY="from-variable")
        run("generate", "a", "--url", url, "--api-key-file", str(tmp_path / "key"))
    keys = [each.get("authorization") for each in server.metadata]
    assert keys == [None, "Bearer from-variable", "Bearer from-file"]
    done = run("generate", "a", "--api-key-file", str(tmp_path / "none"))
    assert done.stderr.startswith("error: --api-key-file names a file that cannot be read: ")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    (tmp_path / "key").write_text("")
    done = run("generate", "a", "--api-key-file", str(tmp_path / "key"))
    assert done.stderr.startswith("error: api_key is no printable ASCII text")


def test_headers_go_with_every_call(run: Run) -> None:
    """``--header`` sends what a server or proxy asks for; one without a value is refused."""
    server = Answering("one")
    with serving(server) as (url,):
        run("--header", "x-team=search", "generate", "a", "--url", url)
        run("generate", "a", "--url", url, "--header", "x-team=a=b", "--header", "x-more=1")
    assert server.metadata[0]["x-team"] == "search"
    assert (server.metadata[1]["x-team"], server.metadata[1]["x-more"]) == ("a=b", "1")
    done = run("generate", "a", "--header", "x-team")
    assert (done.stderr, done.returncode) == ("error: --header is 'x-team'; give NAME=VALUE\n", 2)
    assert "metadata has the name 'X-Team'" in run("generate", "a", "--header", "X-Team=1").stderr


def test_refused_requests_are_tried_again_if_asked(run: Run) -> None:
    """With ``--retries`` a full queue is asked again; without, its refusal is the answer."""
    full = [Refusal(grpc.StatusCode.UNAVAILABLE, "the queue is full", "1") for _ in range(3)]
    server = Answering("one", full)
    with serving(server) as (url,):
        done = run("generate", "a", "--url", url)
        assert (done.returncode, server.requests) == (1, 1)
        done = run("generate", "a", "--url", url, "--retries", "2")
        assert (done.stdout, done.returncode, server.requests) == ("from one\n", 0, 4)
    done = run("generate", "a", "--retries", "-1")
    assert (done.stderr, done.returncode) == ("error: --retries is -1; it must be between 0 and 99\n", 2)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority for this module's server and client."""
    return issue(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def mutual(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Triton that takes only clients with a certificate of the same authority."""
    server = triton.start(
        Path(__file__).parent / "repository",
        tmp_path_factory.mktemp("mutual"),
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={certificates.server}",
        f"--grpc-server-key={certificates.server_key}",
        f"--grpc-root-cert={certificates.ca}",
        "--model-control-mode=explicit",
        "--load-model=minilm",
    )
    yield server.url
    server.stop()


def test_encryption_by_flags_and_variables(run: Run, mutual: str, certificates: Certificates) -> None:
    """Authority, certificate and key are taken from flags or variables; what does not fit together is one line."""
    flags = (
        "--tls-ca",
        certificates.ca,
        "--tls-certificate",
        certificates.client,
        "--tls-key",
        certificates.client_key,
    )
    command = ("embed", "one", "--url", mutual)
    done = run(*command, *map(str, flags))
    assert (done.stderr, done.returncode) == ("", 0)
    named = run(*command, *map(str, flags), "--tls-server-name", "triton.test")
    assert named.stdout == done.stdout
    stranger = run(*command, *map(str, flags), "--tls-ca", str(certificates.stranger))
    assert (stranger.stdout, stranger.returncode, stranger.stderr.count("\n")) == ("", 1, 1)
    bare = run(*command)
    assert (bare.stdout, bare.returncode, bare.stderr.count("\n")) == ("", 1, 1)
    half = run(*command, *map(str, flags[:4]))
    assert half.stderr == "error: tls.certificate is given without tls.key; give both, or neither\n"
    assert half.returncode == 2
    variables = {
        "FATHOM_TLS_CA": str(certificates.ca),
        "FATHOM_TLS_CERTIFICATE": str(certificates.client),
        "FATHOM_TLS_KEY": str(certificates.client_key),
    }
    assert run(*command, **variables).stdout == done.stdout
