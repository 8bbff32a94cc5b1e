"""What a server gives to whom: administration, encryption, keys, and the rights that it needs itself."""

import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.client.certificates import Certificates, issue
from tests.serving import FathomServe
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fathom_client import Client, Tls
from fathom_client.errors import ServerUnavailableError
from fathom_server.launcher.protection import ADMIN_HEADER, ADMIN_KEY_VARIABLE, GRPC_PREFIX

STAND_INS = Path("tests/client/repository").resolve()
ADMIN_KEY = "an-admin-key-for-tests-0123456789"
SETPRIV = shutil.which("setpriv")
STRANGER_ID = 54321
"""A user and group that the machine knows nothing of."""

ADMINISTRATION = {
    "TraceSetting": service_pb2.TraceSettingRequest(),
    "LogSettings": service_pb2.LogSettingsRequest(),
}
SHARED_MEMORY = {
    "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(),
    "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest(name="a", key="/a", byte_size=4),
    "CudaSharedMemoryRegister": service_pb2.CudaSharedMemoryRegisterRequest(name="a", byte_size=4),
}
MODEL_CONTROL = {
    "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(model_name="chat"),
    "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(model_name="chat"),
}
HTTP_ADMINISTRATION = [("GET", "/v2/trace/setting"), ("GET", "/v2/logging"), ("POST", "/v2/logging")]
HTTP_SHARED_MEMORY = [
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/a/register"),
    ("POST", "/v2/cudasharedmemory/region/a/register"),
]
HTTP_MODEL_CONTROL = [("POST", f"/v2/repository/models/chat/{what}") for what in ("load", "unload")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    """A server with no flag of protection."""
    with FathomServe(STAND_INS, tmp_path_factory.mktemp("plain")) as server:
        yield server


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    """A server with a key for administration."""
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "key").write_text(ADMIN_KEY + "\n")
    with FathomServe(STAND_INS, folder / "serve", ("--admin-key-file", str(folder / "key"))) as server:
        yield server


def over_grpc(server: FathomServe, method: str, request: Any, metadata: Mapping[str, str] | None = None) -> str:
    """Call a method of Triton's; "" if it is answered, else the status's words."""
    with grpc.insecure_channel(server.url) as channel:
        try:
            call = getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), method)
            call(request, metadata=tuple((metadata or {}).items()), timeout=30)
        except grpc.RpcError as error:
            return str(error.details())
    return ""


def over_http(server: FathomServe, method: str, path: str, headers: Mapping[str, str] | None = None) -> int:
    """Status of an HTTP request with an empty object in it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
    try:
        connection.request(method, path, "{}", {"Connection": "close", **(headers or {})})
        return connection.getresponse().status
    finally:
        connection.close()


def test_administration_is_closed_by_default(plain: FathomServe) -> None:
    """Without a key nobody traces, changes the log, registers shared memory, loads or unloads, over either protocol."""
    for method, request in {**ADMINISTRATION, **SHARED_MEMORY}.items():
        assert "This protocol is restricted" in over_grpc(plain, method, request), method
    for method, request in MODEL_CONTROL.items():
        assert "explicit model load / unload is not allowed" in over_grpc(plain, method, request), method
    for method, path in HTTP_ADMINISTRATION + HTTP_SHARED_MEMORY:
        assert over_http(plain, method, path) == 403, path
    for method, path in HTTP_MODEL_CONTROL:
        assert over_http(plain, method, path) == 503, path


def test_what_callers_need_is_open(plain: FathomServe) -> None:
    """Health, metadata, the list of models, their configs and statistics, and inference need no key."""
    with Client(plain.url) as client:
        assert client.is_ready()
        assert "chat" in {model.name for model in client.models()}
        assert client.model_config("chat").name == "chat"
        assert client.statistics("chat")
        assert client.generate("chat", "hello").text == "hello"
    assert plain.get("/v2/models/chat/config")[0] == 200


def test_admin_key_opens_administration_and_nothing_else(keyed: FathomServe) -> None:
    """The key gives trace and log settings; shared memory and model control stay closed, and so is a wrong key."""
    right, wrong = {ADMIN_HEADER: ADMIN_KEY}, {ADMIN_HEADER: ADMIN_KEY + "x"}
    for method, request in ADMINISTRATION.items():
        assert over_grpc(keyed, method, request, {GRPC_PREFIX + ADMIN_HEADER: ADMIN_KEY}) == ""
        assert "restricted" in over_grpc(keyed, method, request, {GRPC_PREFIX + ADMIN_HEADER: ADMIN_KEY + "x"})
        assert "restricted" in over_grpc(keyed, method, request)
    for method, request in SHARED_MEMORY.items():
        assert "restricted" in over_grpc(keyed, method, request, {GRPC_PREFIX + ADMIN_HEADER: ADMIN_KEY})
    for method, path in HTTP_ADMINISTRATION:
        assert [over_http(keyed, method, path, headers) for headers in (right, wrong)] == [200, 403], path
    for method, path in HTTP_SHARED_MEMORY:
        assert over_http(keyed, method, path, right) == 403, path
    for method, path in HTTP_MODEL_CONTROL:
        assert over_http(keyed, method, path, right) == 503, path


def test_admin_key_stays_where_it_must_be(tmp_path: Path) -> None:
    """A key from the environment is in no log, not in the launcher's arguments, and not in its models' environments."""
    command = [sys.executable, "-m", "fathom_server.cli", str(STAND_INS), "--ports", "auto", "--log-verbose", "1"]
    command += ["--log-file", str(tmp_path / "triton.log")]
    environment = {**os.environ, ADMIN_KEY_VARIABLE: ADMIN_KEY}
    with (tmp_path / "stderr.txt").open("wb") as stderr:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr)
        try:
            assert process.stdout is not None
            announced = process.stdout.readline()
            server = FathomServe(STAND_INS, tmp_path, (), process, grpc_port=json.loads(announced)["grpc"])
            call = ADMINISTRATION["LogSettings"]
            assert over_grpc(server, "LogSettings", call, {GRPC_PREFIX + ADMIN_HEADER: ADMIN_KEY}) == ""
            knowing = {
                (Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].rpartition(b"/")[2].decode(), what)
                for pid in (process.pid, *server.triton_processes())
                for what in ("cmdline", "environ")
                if ADMIN_KEY.encode() in Path(f"/proc/{pid}/{what}").read_bytes()
            }
        finally:
            process.terminate()
            assert process.wait(60) == 0
            process.stdout.close()
    # Triton takes it on its command line alone, as docs/security.md says
    assert knowing == {(Path(sys.executable).name, "environ"), ("tritonserver", "cmdline")}
    for log in ("stderr.txt", "triton.log"):
        text = (tmp_path / log).read_text(errors="replace")
        assert text
        assert ADMIN_KEY not in text


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of an authority that nobody else knows."""
    return issue(tmp_path_factory.mktemp("certificates"))


def test_grpc_is_encrypted(certificates: Certificates, tmp_path: Path) -> None:
    """With a certificate gRPC speaks TLS alone, and Triton's HTTP, which cannot, answers health and nothing else."""
    flags = ("--tls-cert", str(certificates.server), "--tls-key", str(certificates.server_key))
    with FathomServe(STAND_INS, tmp_path / "serve", flags) as server:
        with Client(server.url, tls=Tls(certificates.ca)) as client:
            assert client.generate("chat", "in secret").text == "in secret"
            assert "chat" in {model.name for model in client.models()}
        for tls in (None, Tls(certificates.stranger)):
            with Client(server.url, tls=tls, retry=None) as client, pytest.raises(ServerUnavailableError):
                client.generate("chat", "overheard")
        assert server.get("/v2/health/ready")[0] == 200
        assert over_http(server, "POST", "/v2/models/chat/generate") == 403
        for path in ("/v2", "/v2/models/chat", "/v2/models/chat/config", "/v2/models/stats"):
            assert server.get(path)[0] == 403, path
        assert over_http(server, "POST", "/v2/repository/index") == 403
        assert server.stop() == 0


def test_callers_are_asked_for_their_certificates(certificates: Certificates, tmp_path: Path) -> None:
    """With --tls-client-ca only callers with a certificate of that authority are let in."""
    flags = ("--tls-cert", str(certificates.server), "--tls-key", str(certificates.server_key))
    with FathomServe(STAND_INS, tmp_path / "serve", (*flags, "--tls-client-ca", str(certificates.ca))) as server:
        own = Tls(certificates.ca, certificates.client, certificates.client_key)
        with Client(server.url, tls=own) as client:
            assert client.generate("chat", "it is me").text == "it is me"
        with (
            Client(server.url, tls=Tls(certificates.ca), retry=None) as client,
            pytest.raises(ServerUnavailableError),
        ):
            client.generate("chat", "somebody")


def test_gateway_is_encrypted_on_both_sides(certificates: Certificates, tmp_path: Path) -> None:
    """OpenAI's API over HTTPS, in front of a Triton that asks the gateway for its certificate."""
    settings = {
        "tls_cert": certificates.server,
        "tls_key": certificates.server_key,
        "target_ca": certificates.ca,
        "target_server_name": "triton.test",
        "target_cert": certificates.client,
        "target_key": certificates.client_key,
    }
    config = tmp_path / "gateway.toml"
    config.write_text("".join(f"{name} = {json.dumps(str(value))}\n" for name, value in settings.items()))
    flags = ["--tls-cert", str(certificates.server), "--tls-key", str(certificates.server_key)]
    flags += ["--tls-client-ca", str(certificates.ca), "--openai-port", "--openai-config", str(config)]
    with FathomServe(STAND_INS, tmp_path / "serve", tuple(flags)) as server:
        context = ssl.create_default_context(cafile=str(certificates.ca))
        connection = http.client.HTTPSConnection("127.0.0.1", server.openai_port, timeout=30, context=context)
        body = {"model": "chat", "messages": [{"role": "user", "content": "through two doors"}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        assert answer["choices"][0]["message"]["content"] == "through two doors"
        assert server.get("/health/live", server.openai_port)[0] == 0, "answered without encryption"
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tls-cert", "{server}"), "--tls-cert is given without --tls-key"),
        (("--tls-client-ca", "{ca}"), "--tls-client-ca is given without --tls-cert and --tls-key"),
        (("--tls-cert", "{server}", "--tls-key", "{client_key}"), "are no pair of a certificate and its key"),
        (("--tls-cert", "{ca}/none", "--tls-key", "{server_key}"), "/none cannot be read"),
        (("--tls-cert", "{server}", "--tls-key", "{server_key}", "--tls-client-ca", "{key}"), "holds no certificate"),
        (("--tls-cert", "{server}", "--tls-key", "{server_key}", "--openai-port"), "target_ca"),
        (("--admin-key-file", "{short}"), "holds no usable key"),
        (("--admin-key-file", "{key}"), "holds no usable key"),
    ],
)
def test_protection_that_cannot_be_is_refused_before_anything_starts(
    certificates: Certificates, tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    """Files that are missing, no pair or no certificate, and keys that are too short, end in one line without them."""
    (tmp_path / "short").write_text("hunter2")
    files = {name: getattr(certificates, name) for name in ("ca", "server", "server_key", "client_key")}
    files |= {"key": certificates.server_key, "short": tmp_path / "short"}
    command = [sys.executable, "-m", "fathom_server.cli", str(STAND_INS), "--ports", "auto"]
    command += [flag.format(**files) for flag in flags]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert "hunter2" not in line


def test_wrong_key_of_the_environment_is_not_shown() -> None:
    """A key that cannot be one is refused by the variable's name."""
    command = [sys.executable, "-m", "fathom_server.cli", str(STAND_INS), "--ports", "auto"]
    environment = {**os.environ, ADMIN_KEY_VARIABLE: "hunter2 hunter2 hunter2"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {ADMIN_KEY_VARIABLE} holds no usable key")
    assert "hunter2" not in result.stderr


@pytest.mark.skipif(
    os.geteuid() != 0 or SETPRIV is None, reason="only root may become a user that the machine does not know (setpriv)"
)
def test_any_user_serves_a_repository_that_it_may_only_read(repository: Path, tmp_path: Path) -> None:
    """A user without a name or a home serves models that are not its own, and writes nothing beside them."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("small", "minilm", "minilm_tokenizer", "minilm_encoder"):
        (folder / name).symlink_to(repository / name)
    before = snapshot(repository)
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    # it may read everything, wherever this checkout lies, and write nothing that is not its own
    command = [str(SETPRIV), f"--reuid={STRANGER_ID}", f"--regid={STRANGER_ID}", "--clear-groups", "--no-new-privs"]
    command += ["--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search"]
    command += ["--ambient-caps=-all,+dac_read_search"]
    command += [sys.executable, "-m", "fathom_server.cli", str(folder), "--ports", "auto"]
    with (tmp_path / "stderr.txt").open("wb") as stderr:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr)
        try:
            assert process.stdout is not None
            announced = process.stdout.readline()
            assert announced, (tmp_path / "stderr.txt").read_text()[-3000:]
            with Client(f"127.0.0.1:{json.loads(announced)['grpc']}") as client:
                assert client.generate("small", "What is 2 + 2?", max_tokens=4, ignore_eos=True).num_output_tokens == 4
                assert client.embed("minilm", ["a text"]).vectors.shape == (1, 384)
        finally:
            process.terminate()
            assert process.wait(60) == 0, (tmp_path / "stderr.txt").read_text()[-3000:]
            process.stdout.close()
    assert snapshot(repository) == before


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file below a folder with its size and time of change."""
    return {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in folder.rglob("*")}
