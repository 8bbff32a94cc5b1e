"""The chart's own command lines with everything encrypted, run on this machine: server, gateway, tests, load test.

Each pod has the secrets' files that its volumes name, at the paths where it mounts them, and no others. Only addresses
and folders differ from what is rendered; the models are stand-ins on a real Triton.
"""

import http.client
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.client.certificates import issue
from tests.deploy.chart.machine import Machine
from tests.deploy.chart.rendering import Rendered, containers, render
from tests.gateway_process import free_port
from tests.serving import FathomServe

STAND_INS = Path("tests/client/repository").resolve()
GRPC = "demo-fathom-headless.prod.svc:8001"
GATEWAY = "('demo-fathom-gateway.prod.svc', 80)"

SCENARIO = """
[target]
metrics_url = "off"

[load]
shape = "closed"
users = [2]
requests = 6

[[tasks]]
model = "minilm"
task = "embed"
input_tokens = 8
"""

Secrets = Mapping[str, Mapping[str, bytes]]


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    """Everything encrypted: gRPC for callers with a certificate, by a name that is no address; HTTPS at the gateway."""
    return render(
        {
            "repository": {"source": "existingClaim", "existingClaim": {"name": "models"}},
            "server": {
                "tls": {
                    "secret": "triton-tls",
                    "serverName": "triton.test",
                    "clients": {"ca": {"secret": "callers-ca", "key": "authority"}, "secret": "callers-tls"},
                }
            },
            "gateway": {"tls": {"secret": "gateway-tls"}},
            "tests": {"timeoutSeconds": 60},
            "loadtest": {"enabled": True, "scenario": SCENARIO},
        }
    )


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    """What is in the cluster's secrets; server, gateway and callers have authorities that do not know each other."""

    def read(name: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
        made = issue(tmp_path_factory.mktemp("authority"), name)
        ca = made.ca.read_bytes()
        server = {"tls.crt": made.server.read_bytes(), "tls.key": made.server_key.read_bytes(), "ca.crt": ca}
        return server, {"tls.crt": made.client.read_bytes(), "tls.key": made.client_key.read_bytes(), "ca.crt": ca}

    server, _ = read("triton.test")
    gateway, _ = read("demo-fathom-gateway.prod.svc")
    _, callers = read("unused.test")
    return {
        "triton-tls": server,
        "gateway-tls": gateway,
        "callers-tls": callers,
        "callers-ca": {"authority": callers["ca.crt"]},
    }


class Cluster:
    """A machine for each container, and the addresses that they share."""

    def __init__(self, root: Path, rendered: Rendered, secrets: Secrets) -> None:
        self._root = root
        self._rendered = rendered
        self._secrets = secrets
        self.addresses: dict[str, str] = {}

    def node(self, name: str, pod: dict[str, Any], container: dict[str, Any]) -> Machine:
        """A machine with a container's config maps and secrets in place."""
        machine = Machine(self._root / name)
        machine.addresses = self.addresses
        for folder in ("models", "reports", "tmp", "etc/fathom"):
            (machine.root / folder).mkdir(parents=True)
        (machine.root / "models" / "repository").symlink_to(STAND_INS)
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for mount in container.get("volumeMounts", []):
            if "configMap" in volumes.get(mount["name"], {}):
                folder = Path(machine.local(mount["mountPath"]))
                folder.mkdir()
                for name, text in self._rendered.one("ConfigMap", volumes[mount["name"]]["configMap"]["name"])[
                    "data"
                ].items():
                    (folder / name).write_text(machine.local(text), encoding="utf-8")
        machine.mount_secrets(pod, container, self._secrets)
        return machine


@pytest.fixture(scope="module")
def cluster(rendered: Rendered, secrets: Secrets, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Where all of it runs."""
    return Cluster(tmp_path_factory.mktemp("cluster"), rendered, secrets)


@pytest.fixture(scope="module")
def served(rendered: Rendered, cluster: Cluster) -> Iterator[FathomServe]:
    """The server's command, on free ports and this machine's own address."""
    pod = rendered.server()
    (container,) = pod["spec"]["containers"]
    machine = cluster.node("server", pod, container)
    program, repository, *flags = container["command"]
    assert program == "fathom-serve"
    own = ("--host", "--http-port", "--grpc-port", "--metrics")
    kept = tuple(machine.local(flag) for flag in flags if not flag.startswith(own))
    with FathomServe(Path(machine.local(repository)), machine.root / "log", kept) as server:
        cluster.addresses[GRPC] = server.url
        yield server


@pytest.fixture(scope="module")
def gateway(rendered: Rendered, cluster: Cluster, served: FathomServe) -> Iterator[int]:
    """The port of the gateway's command beside it."""
    port = free_port()
    pod = rendered.one("Deployment", "-gateway")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    machine = cluster.node("gateway", pod, container)
    program, *flags = container["command"]
    assert program == "fathom-gateway"
    command = [sys.executable, "-m", "fathom_server.gateway", *(machine.local(word) for word in flags)]
    command = [f"--port={port}" if word.startswith("--port=") else word for word in command]
    command = ["--host=127.0.0.1" if word.startswith("--host=") else word for word in command]
    cluster.addresses[GATEWAY] = f"('127.0.0.1', {port})"
    with subprocess.Popen(command, env=machine.environment(container), stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while probed(port, "/health/ready") != 200:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0


def probed(port: int, path: str) -> int:
    """Status of an HTTPS GET as the kubelet sends it, which believes any certificate; 0 without an answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_probes_find_what_runs_ready(rendered: Rendered, served: FathomServe, gateway: int) -> None:
    """Every path that a probe asks answers 200 over what the probe speaks, and the gateway answers nothing else."""
    asked = 0
    for _, pod in rendered.pods():
        for container in pod["spec"]["containers"]:
            for probe in (value["httpGet"] for key, value in container.items() if key.endswith("Probe")):
                if probe.get("scheme") == "HTTPS":
                    assert probed(gateway, probe["path"]) == 200
                else:
                    assert served.get(probe["path"])[0] == 200
                asked += 1
    assert asked == 6
    assert served.get("/health/live", gateway)[0] == 0, "answered without encryption"
    assert served.get("/v2/models/chat")[0] == 403, "Triton's HTTP, which is not encrypted, gives more than health"


@pytest.mark.parametrize("name", ["ready", "chat", "embed", "gateway"])
def test_the_pods_of_helm_test_succeed(
    rendered: Rendered, cluster: Cluster, served: FathomServe, gateway: int, name: str
) -> None:
    """Each command ends with 0 with the files of its own pod, and says what it found."""
    pod = rendered.one("Pod", f"-test-{name}")
    (container,) = pod["spec"]["containers"]
    done = cluster.node(f"test-{name}", pod, container).run(container)
    assert done.returncode == 0, done.stderr
    assert {"ready": "chat", "chat": "Say hello.", "embed": "", "gateway": "ready"}[name] in done.stdout
    assert done.stdout.strip()


def test_a_caller_without_the_certificate_is_turned_away(
    rendered: Rendered, cluster: Cluster, served: FathomServe
) -> None:
    """The chart's callers are let in for the certificate that they show, and for nothing else."""
    pod = rendered.one("Pod", "-test-chat")
    (container,) = pod["spec"]["containers"]
    machine = cluster.node("stranger", pod, container)
    without = [word.partition(" --tls-certificate=")[0] for word in container["command"]]
    assert without != container["command"]
    done = machine.run({**container, "command": without})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_the_load_test_is_let_in(rendered: Rendered, cluster: Cluster, served: FathomServe) -> None:
    """Its pod waits for the server, then measures it, through the same encryption."""
    pod = rendered.one("Job")["spec"]["template"]
    for number, container in enumerate(containers(pod)):
        machine = cluster.node(f"loadtest-{number}", pod, container)
        done = machine.run(container)
        assert done.returncode == 0, done.stdout + done.stderr
    [report] = (machine.root / "reports").glob("*/report.json")
    [stage] = json.loads(report.read_text(encoding="utf-8"))["stages"]
    assert stage["figures"]["requests"] == 6
