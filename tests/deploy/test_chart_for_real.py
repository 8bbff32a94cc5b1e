"""The chart's own command lines, run on this machine in Kubernetes's order: export, serve, gateway, tests.

Only addresses and folders differ from what is rendered. What a cluster adds (images, probes, policies) is not here.
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deploy.chart.machine import Machine
from tests.deploy.chart.rendering import Rendered, containers, render
from tests.serving import FathomServe

from fathom_client import Client

BUNDLE = """
[[models]]
name = "chat"
source = "/checkpoints/small"
task = "generate"
precision = "int8"
quality = { effort = "off" }
limits = { max_context = 512, max_batch = 4 }
"""


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return render(
        {
            "bundle": BUNDLE,
            "checkpoints": {"source": "existingClaim", "existingClaim": {"name": "checkpoints"}},
            "storage": {"kind": "claim"},
            "tests": {"timeoutSeconds": 60},
        }
    )


@pytest.fixture(scope="module")
def machine(rendered: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A volume that the chart's Job has filled, step by step, with config maps and checkpoint in place."""
    machine = Machine(tmp_path_factory.mktemp("node"))
    for folder in ("models", "checkpoints", "tmp", "etc/fathom/bundle", "etc/fathom/gateway"):
        (machine.root / folder).mkdir(parents=True)
    shutil.copytree("examples/models/small", machine.root / "checkpoints" / "small")
    for end, folder in (("-bundle", "bundle"), ("-gateway", "gateway")):
        for name, text in rendered.one("ConfigMap", end)["data"].items():
            (machine.root / "etc/fathom" / folder / name).write_text(machine.local(text), encoding="utf-8")
    return machine


def test_pods_wait_until_the_job_has_filled_the_volume(rendered: Rendered, machine: Machine) -> None:
    """The waiting container goes on only after the Job's export and its last step, whose mark it looks for."""
    (waiting,) = rendered.server()["spec"]["initContainers"]
    command = [machine.local(word).replace("sleep 10", "sleep 0.1") for word in waiting["command"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "waiting for the Job that fills this volume" in process.stdout.readline()
        for step in containers(rendered.one("Job")["spec"]["template"]):
            assert process.poll() is None
            done = machine.run(step)
            assert done.returncode == 0, done.stderr
        process.stdout.read()
        assert process.wait(timeout=60) == 0
    assert (machine.root / "models/repository/chat/config.pbtxt").is_file()


@pytest.fixture(scope="module")
def served(rendered: Rendered, machine: Machine) -> Iterator[FathomServe]:
    """The server's command on the volume that was filled, on free ports and this machine's own address."""
    program, repository, *flags = rendered.server()["spec"]["containers"][0]["command"]
    assert program == "fathom-serve"
    kept = tuple(flag for flag in flags if not flag.startswith(("--host", "--http-port", "--grpc-port", "--metrics")))
    with FathomServe(Path(machine.local(repository)), machine.root / "log", kept) as server:
        machine.addresses["demo-fathom-headless.prod.svc:8001"] = server.url
        yield server


@pytest.fixture(scope="module")
def gateway(rendered: Rendered, machine: Machine, served: FathomServe) -> Iterator[str]:
    """The gateway's command beside it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    container = rendered.one("Deployment", "-gateway")["spec"]["template"]["spec"]["containers"][0]
    program, *flags = container["command"]
    assert program == "fathom-gateway"
    command = [sys.executable, "-m", "fathom_server.gateway", *(machine.local(word) for word in flags)]
    command = [f"--port={port}" if word.startswith("--port=") else word for word in command]
    command = ["--host=127.0.0.1" if word.startswith("--host=") else word for word in command]
    machine.addresses["demo-fathom-gateway.prod.svc:80"] = f"127.0.0.1:{port}"
    with subprocess.Popen(command, env=machine.environment(container), stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while served.get("/health/ready", port)[0] != 200:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0


def test_probes_find_what_runs_ready(rendered: Rendered, served: FathomServe, gateway: str) -> None:
    """Every path that a probe asks answers 200."""
    ports = {"http": served.http_port, "openai": int(gateway.rpartition(":")[2])}
    for _, pod in rendered.pods():
        for container in pod["spec"]["containers"]:
            for key in ("startupProbe", "readinessProbe", "livenessProbe"):
                if key in container:
                    asked = container[key]["httpGet"]
                    assert served.get(asked["path"], ports[asked["port"]])[0] == 200, asked


def test_the_pods_of_helm_test_succeed(rendered: Rendered, machine: Machine, served: FathomServe, gateway: str) -> None:
    """Ready, models, a streamed answer, the gateway: each command ends with 0 and says what it found."""
    said = {}
    for pod in rendered.of("Pod"):
        (container,) = pod["spec"]["containers"]
        done = machine.run(container)
        assert done.returncode == 0, f"{container['name']}: {done.stderr}"
        said[container["name"]] = done.stdout
    assert said.keys() == {"ready", "chat", "gateway"}
    assert "chat" in said["ready"]
    assert said["chat"].strip()
    assert "ready" in said["gateway"]


def test_a_test_pod_fails_when_there_is_no_server(rendered: Rendered, machine: Machine) -> None:
    """A server that is away is a failed pod with one line, not a pod that hangs or succeeds."""
    pod = rendered.one("Pod", "-test-chat")
    (container,) = pod["spec"]["containers"]
    away = Machine(machine.root)
    away.addresses["demo-fathom-headless.prod.svc:8001"] = "127.0.0.1:1"
    done = away.run(container)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_metrics_have_the_names_that_scaling_asks_for(served: FathomServe) -> None:
    """After an answer, the metrics port gives every family of the three queries."""
    with Client(served.url) as client:
        client.generate("chat", "hello", max_tokens=2)
    _, body = served.get("/metrics", served.metrics_port)
    queries = []
    for metric in ("waitingRequests", "pendingRequests", "queueTime"):
        values = {"autoscaling": {"kind": "keda", "metric": metric, "prometheusUrl": "http://p"}}
        queries.append(render(values).one("ScaledObject")["spec"]["triggers"][0]["metadata"]["query"])
    families = {word.split("(")[-1] for query in queries for word in query.split("{")[:-1]}
    families = {family for family in families if family.startswith(("fathom_", "nv_"))}
    assert len(families) == 4
    for family in families:
        assert f"\n{family}{{".encode() in body, family
