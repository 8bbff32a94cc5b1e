"""A real Prometheus reads a live server and a live gateway, takes every question, and fires an alert."""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import yaml
from deploy.observability.expressions import GATEWAY_JOB, SERVER_JOB
from tests.deploy.observability.deployment import deployment
from tests.deploy.observability.questions import FOLDER, RULES, panel_questions, rule_questions
from tests.gateway_process import free_port
from tests.serving import FathomServe

from fathom_client import Client, metric_names
from fathom_server.launcher.stub_watch import stubs_of

PROMETHEUS = shutil.which("prometheus")
PATIENCE_S = 60.0
START = metric_names.ENGINE_START

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(
        PROMETHEUS is None, reason="prometheus is not on the PATH (Debian trixie: apt-get install prometheus)"
    ),
]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    address: str

    def get(self, path: str, **parameters: str) -> Any:
        """What its API answers; it must be a success."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.address}{path}?{query}", timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expression: str) -> list[float]:
        """The values of an instant query, those that are no number left out."""
        found = [float(each["value"][1]) for each in self.get("/api/v1/query", query=expression)["result"]]
        return [each for each in found if each == each]

    def firing(self) -> dict[str, dict[str, str]]:
        """Labels of the alerts that fire, by name."""
        alerts = self.get("/api/v1/alerts")["alerts"]
        return {each["labels"]["alertname"]: each["labels"] for each in alerts if each["state"] == "firing"}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    with deployment(tmp_path_factory.mktemp("watched")) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(server: FathomServe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has our own configuration; addresses and intervals alone are the test's."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(RULES)]
    ports = {SERVER_JOB: server.metrics_port, GATEWAY_JOB: server.openai_port}
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [str(PROMETHEUS), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        running = Prometheus(f"http://127.0.0.1:{port}")

        def is_up() -> bool:
            assert process.poll() is None, (folder / "log.txt").read_text()
            try:
                return running.values("sum(up)") == [2.0]
            except OSError:
                return False

        wait_until(is_up, "Prometheus does not read both")
        yield running
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask_gateway(server: FathomServe) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.openai_port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()


def test_every_question_is_answered(server: FathomServe, prometheus: Prometheus) -> None:
    """Prometheus takes every expression of rules and panels; after requests the panels have values, GPUs' apart."""
    with Client(server.url) as client:
        for _ in range(20):
            client.generate("chat", "Add 1 and 2.", max_tokens=8)
            ask_gateway(server)
            time.sleep(0.1)
    failed = 'fathom:answers_failed:ratio_rate5m{model="chat"}'
    wait_until(lambda: prometheus.values(failed) == [0.0], "nothing is recorded")
    without = {each.where for each in panel_questions() if not prometheus.values(each.promql)}
    for question in rule_questions():
        prometheus.get("/api/v1/query", query=question.promql)
    # nobody was refused, nothing was tried ahead, no batches of an encoder, no GPU
    assert without <= {
        "engine: Utilisation",
        "engine: Memory",
        "engine: Power",
        "engine: Tokens tried ahead that came true",
        "autoscaling: Refused by the gateway",
        "overview: Turned away",
    }
    assert prometheus.values('sum(fathom_engine_start_time_seconds{job="fathom-server"})')[0] > 1.7e9


def test_a_model_that_keeps_dying_fires_the_alert(server: FathomServe, prometheus: Prometheus) -> None:
    """Its process is killed twice; FathomServerRestarts fires with the model's and the server's names, and alone."""
    assert "FathomServerRestarts" not in prometheus.firing()
    for _ in range(2):
        before = prometheus.values(START)
        kill_model(server)
        wait_until(partial(has_restarted, prometheus, before), "the model does not come back")
        wait_until(server.ports_file.exists, "the server does not become ready")
    wait_until(lambda: "FathomServerRestarts" in prometheus.firing(), "the alert does not fire")
    firing = prometheus.firing()
    assert firing["FathomServerRestarts"] == {
        "alertname": "FathomServerRestarts",
        "severity": "warning",
        "job": SERVER_JOB,
        "instance": f"127.0.0.1:{server.metrics_port}",
        "model": "chat",
    }
    assert firing.keys() == {"FathomServerRestarts"}


def has_restarted(prometheus: Prometheus, before: list[float]) -> bool:
    now = prometheus.values(START)
    return bool(now) and now != before


def kill_model(server: FathomServe) -> None:
    """End the process of the model as the kernel does when memory runs out."""
    (pid,) = [pid for triton in server.triton_processes() for pid, name in stubs_of(triton).items() if name == "chat"]
    os.kill(pid, signal.SIGKILL)
