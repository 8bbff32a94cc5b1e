"""docker compose up for real: from a clean checkout to answers, through faults, to nothing left behind.

Runs where a Docker engine is (``pytest -m docker``). The tests of this file are steps of one life, in their order.
"""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.deploy.engine import Project, both_streams, docker, wait_until, why_not

from fathom_client import Client, FathomError, StreamBrokenError

REASON = why_not()
pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(REASON is not None, reason=f"needs a Docker engine: {REASON}"),
    pytest.mark.timeout(3600),
]

QUESTION = [{"role": "user", "content": "Sort alphabetically: ship, lamp, apple"}]
SCENARIO = """
[load]
shape = "closed"
users = [3]
requests = 12

[[tasks]]
model = "chat"
task = "chat"
input_tokens = 32
output_tokens = 16
sampling = { ignore_eos = true }
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project from a clean checkout, images built; everything is removed at the end."""
    project = Project(tmp_path_factory.mktemp("compose") / "checkout")
    (project.folder / "scenario.toml").write_text(SCENARIO, encoding="utf-8")
    project.environment["FATHOM_SCENARIO"] = "./scenario.toml"
    try:
        project.build()
        yield project
    finally:
        project.remove()


@pytest.fixture
def client(project: Project) -> Iterator[Client]:
    with Client(f"127.0.0.1:{project.ports['GRPC']}") as client:
        yield client


def test_an_export_that_is_killed_midway_leaves_no_model(project: Project) -> None:
    """Killed while it builds its second model, it leaves nothing half-written in the repository."""
    project("up", "--detach", "models")
    wait_until(lambda: "chat_small: building" in project.logs("models"), "the second model is built")
    docker("kill", project.container("models"))
    assert project.state("models")["ExitCode"] == 137
    listing = project("run", "--rm", "--no-deps", "--entrypoint", "find /models -maxdepth 2 -type d", "models")
    assert ".fathom-staging-" in listing, "the kill came too late to interrupt anything"
    assert not [line for line in listing.splitlines() if line.startswith("/models/repository/chat_small")]


def test_up_exports_serves_and_is_healthy_in_order(project: Project) -> None:
    """After that kill, the same volume takes the models, and each service waits for the one before it."""
    project("up", "--detach", "--wait")
    states = {name: project.state(name) for name in ("models", "server", "gateway")}
    assert states["models"]["ExitCode"] == 0
    assert states["models"]["FinishedAt"] <= states["server"]["StartedAt"] <= states["gateway"]["StartedAt"]
    assert project.is_healthy("server")
    assert project.is_healthy("gateway")
    listing = project("run", "--rm", "--no-deps", "--entrypoint", "find /models -maxdepth 1", "models")
    assert ".fathom-staging-" not in listing


def test_the_client_and_openai_callers_are_answered(project: Project, client: Client) -> None:
    """One embedding, one streamed chat and the same through the gateway, on the ports of this machine."""
    assert client.embed("minilm", ["two texts", "one request"]).vectors.shape == (2, 384)
    with client.stream_chat("chat", QUESTION, max_tokens=32) as stream:
        text = "".join(chunk.text for chunk in stream)
    assert text
    body = {"model": "chat", "messages": QUESTION, "max_tokens": 32, "temperature": 0}
    answer = httpx.post(f"http://127.0.0.1:{project.ports['OPENAI']}/v1/chat/completions", json=body, timeout=60).json()
    assert answer["choices"][0]["message"]["content"] == text


def test_ports_are_bound_to_this_machine_alone(project: Project) -> None:
    """No published port listens on another address."""
    for service in ("server", "gateway"):
        published = json.loads(docker("inspect", project.container(service)))[0]["NetworkSettings"]["Ports"]
        bound = [each for ports in published.values() for each in ports or ()]
        assert bound
        assert {each["HostIp"] for each in bound} == {"127.0.0.1"}


def test_containers_have_no_rights(project: Project) -> None:
    """The processes are no root, have no capability and no way to gain one, and write to /tmp and /dev/shm alone."""
    for service in ("server", "gateway"):
        status = project("exec", "--no-TTY", service, "cat", "/proc/1/status")
        values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert values["Uid"].split() == ["10001"] * 4
        assert int(values["CapPrm"], 16) == int(values["CapBnd"], 16) == 0
        assert values["NoNewPrivs"] == "1"
        for folder, is_writable in (("/", False), ("/opt/fathom", False), ("/models", False), ("/tmp", True)):  # noqa: S108
            wrote = project.run("exec", "--no-TTY", service, "touch", f"{folder}/probe").returncode == 0
            assert wrote == is_writable, (service, folder)


def test_a_second_up_builds_nothing(project: Project) -> None:
    """The models on the volume are up to date, and the server that serves them stays."""
    server = project.container("server")
    started = project.state("server")["StartedAt"]
    project("up", "--detach", "--wait")
    assert "up to date" in project.logs("models")
    assert project.container("server") == server
    assert project.state("server")["StartedAt"] == started


def test_a_load_test_is_shared_among_workers(project: Project, tmp_path: Path) -> None:
    """The master waits for its workers, sends the whole scenario and leaves its report; Locust's UI is served."""
    project("--profile=loadtest", "up", "--detach", FATHOM_LOADTEST_WORKERS="3")
    wait_until(lambda: not project.state("loadtest-master")["Running"], "the run ends")
    assert project.state("loadtest-master")["ExitCode"] == 0, project.logs("loadtest-master")
    project("--profile=loadtest", "cp", "loadtest-master:/reports/master/report.json", str(tmp_path))
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    (stage,) = report["stages"]
    assert (stage["figures"]["succeeded"], stage["figures"]["failed"]) == (12, 0)
    assert stage["generator"]["workers"] == 3
    wait_until(lambda: project.is_healthy("loadtest"), "Locust's UI is healthy")
    assert "<title>Locust</title>" in httpx.get(f"http://127.0.0.1:{project.ports['LOCUST']}/").text
    project("--profile=loadtest", "rm", "--force", "--stop", "loadtest", "loadtest-master", "loadtest-worker")


def ask_until_it_fails(url: str) -> FathomError:
    """Stream long answers, one after the other, until one fails; how it failed."""
    with Client(url) as client:
        while True:
            try:
                with client.stream_chat("chat", QUESTION, max_tokens=1500, ignore_eos=True) as stream:
                    stream.result()
            except FathomError as error:
                return error


def test_a_server_that_is_killed_mid_stream_comes_back(project: Project, client: Client) -> None:
    """Its streams end with an error that says so, the container is started again, and answers as before."""
    before = project.state("server")["RestartCount"]
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_until_it_fails, f"127.0.0.1:{project.ports['GRPC']}") for _ in range(4)]
        # process 1 is Docker's init; the launcher is its child, and its end is the container's
        project("exec", "--no-TTY", "server", "sh", "-c", "sleep 1; kill -9 $(cat /proc/1/task/1/children)")
        errors = [each.result() for each in asking]
    assert any(isinstance(error, StreamBrokenError) for error in errors), errors
    wait_until(lambda: project.state("server")["RestartCount"] == before + 1, "the engine starts it again")
    wait_until(lambda: project.is_healthy("server"), "the server is healthy again")
    wait_until(lambda: project.is_healthy("gateway"), "the gateway is ready again")
    assert client.chat("chat", QUESTION, max_tokens=32).text


def test_a_stop_waits_for_answers(project: Project, client: Client) -> None:
    """Streams that run when the server is stopped end whole, and then the server ends by itself."""
    begun = threading.Barrier(9)

    def ask() -> int | None:
        with client.stream_chat("chat", QUESTION, max_tokens=1800, ignore_eos=True) as stream:
            next(iter(stream))
            begun.wait(60)
            return stream.result().num_output_tokens

    with ThreadPoolExecutor(9) as pool:
        asking = [pool.submit(ask) for _ in range(8)]
        begun.wait(60)
        stopping = pool.submit(project, "stop", "server")
        wait_until(lambda: "stopping: running requests" in project.logs("server"), "the server begins to stop")
        assert not all(each.done() for each in asking), "nothing ran any more when the server was stopped"
        assert [each.result() for each in asking] == [1800] * 8
        stopping.result()
    assert project.state("server")["ExitCode"] == 0, project.logs("server")[-3000:]


def test_an_export_over_served_models_that_is_killed_changes_nothing(project: Project) -> None:
    """The volume that such an export leaves is served as it was."""
    build = project("run", "--detach", "models", *export_again()).strip().splitlines()[-1]
    wait_until(lambda: "chat: judging" in both_streams(build), "the first model is judged")
    docker("kill", build)
    docker("rm", build)
    project("up", "--detach", "--wait", "--no-deps", "server", "gateway")
    with Client(f"127.0.0.1:{project.ports['GRPC']}") as client:
        assert client.chat("chat", QUESTION, max_tokens=8).text


def export_again() -> list[str]:
    """A command that builds what is up to date, too."""
    return ["fathom-export", "/bundle/bundle.toml", "--repository=/models/repository", "--force"]


def serve_in_250_mib(project: Project, *arguments: str) -> str:
    """The last line of a server that may have no more memory than that, and ends."""
    command = ["docker", "run", "--rm", "--init", "--read-only", "--memory=250m", "--memory-swap=250m", *arguments]
    command += ["--shm-size=256m", "--tmpfs=/tmp:exec,mode=1777", f"--volume={project.name}_models:/models:ro"]
    command += [f"{project.name}/fathom-server:0.1.0", "fathom-serve", "/models/repository", "--log-level=error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    return done.stderr.splitlines()[-1]


def test_too_little_memory_is_told_in_one_line(project: Project) -> None:
    """A server that will not fit says so before it starts; one that starts all the same says who ended it."""
    assert re.match(r"error: .* and there are 250 MiB of memory: ", serve_in_250_mib(project))
    last = serve_in_250_mib(project, "--env=FATHOM_MEMORY_CHECK=0")
    assert re.match(r"fathom-serve: error: .* for want of memory: raise the container's memory limit", last), last


def test_down_leaves_nothing_behind(project: Project) -> None:
    """After docker compose down no container, volume or network is left, and the images are removed by their names."""
    project("--profile=*", "down", "--volumes", "--remove-orphans")
    assert project.leftovers() == project.images()
    project.remove()
    assert project.leftovers() == []
