"""How a scenario's server is reached: encrypted, with a key, and refused by name where files are wrong."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.client.certificates import Certificates, issue
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.scenario import Target
from fathom_loadtest.scenario.target import TlsFiles
from fathom_loadtest.target import Connections, connect


class Guarded(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # tritonclient has no types
    """Lives, for those who bring the key."""

    def ServerLive(self, request: Any, context: Any) -> Any:
        """Say so, or refuse."""
        if ("authorization", "Bearer s3cret") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no key")
        return service_pb2.ServerLiveResponse(live=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and what it signed."""
    return issue(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def port(certificates: Certificates) -> Iterator[int]:
    """A server that wants a client's certificate and a key."""
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Guarded(), server)
    pair = (certificates.server_key.read_bytes(), certificates.server.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], certificates.ca.read_bytes(), require_client_auth=True)
    number = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield number
    server.stop(None).wait()


def test_a_guarded_server_is_reached(port: int, certificates: Certificates, tmp_path: Path) -> None:
    """With both certificates and the key's file a server that wants all of them answers."""
    (tmp_path / "key").write_text("s3cret\n")
    tls = TlsFiles(certificates.ca, certificates.client, certificates.client_key, server_name="triton.test")
    target = Target(f"127.0.0.1:{port}", api_key_file=tmp_path / "key", tls=tls)
    connections = Connections(target, 2)
    taken = [connections.take() for _ in range(3)]
    assert [is_new for _, is_new in taken] == [True, True, False]
    assert taken[2][0] is taken[0][0]
    assert all(client.is_live() for client, _ in taken)
    assert "s3cret" not in repr(taken[0][0])
    connections.close()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"url": "http://x:8001"}, "target.url is 'http://x:8001'"),
        ({"api_key_file": Path("absent")}, "target.api_key_file absent cannot be read"),
        ({"api_key_file": Path("/dev/null")}, "target.api_key_file /dev/null is empty; write the API key in it"),
        ({"tls": TlsFiles(ca=Path("absent.pem"))}, "target.tls.ca cannot be read"),
        ({"tls": TlsFiles(ca=Path("/dev/null"))}, "target.tls.ca (/dev/null) holds no PEM block"),
    ],
)
def test_wrong_files_and_addresses_are_named(settings: dict[str, Any], complaint: str) -> None:
    """The message gives the key, the value and what is wrong with it."""
    with pytest.raises(ScenarioError) as caught:
        connect(Target(**settings))
    assert complaint in str(caught.value)
