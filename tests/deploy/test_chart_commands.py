"""Every command, flag, port, path, variable and metric of the chart is one that the code has."""

import argparse
import ast
import inspect
import math
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.chart.rendering import CASES, ROOT, case_values, containers, loaded_chart, render, rendered_case

from fathom_client import metric_names
from fathom_client.cli import build_parser as client_parser
from fathom_export import cli as export_cli
from fathom_export.spec.bundle import read_bundle
from fathom_export.spec.model_spec import GenerateSpec
from fathom_export.tensorrt.command import parser as plan_parser
from fathom_loadtest.commands import run, worker
from fathom_loadtest.scenario import read_scenario
from fathom_loadtest.workers.plan import DEFAULT_PORT as WORKERS_PORT
from fathom_server.cli import build_parser as serve_parser
from fathom_server.engine.settings import EngineLimits
from fathom_server.gateway import cli as gateway_cli
from fathom_server.gateway.routes import health, metrics
from fathom_server.gateway.settings import DEFAULT_PORT as GATEWAY_PORT
from fathom_server.gateway.settings import GatewaySettings
from fathom_server.launcher.settings import (
    DEFAULT_GRPC_PORT,
    DEFAULT_HTTP_PORT,
    DEFAULT_METRICS_PORT,
    LaunchSettings,
)

LONGEST_CONTEXT = next(field.default for field in fields(EngineLimits) if field.name == "max_context")
"""The engine's own limit, where a bundle gives none."""


PARTS = ("client", "server", "export", "loadtest")


def commands(case: str) -> list[list[str]]:
    """Every command line of Fathom's own programs in a case; those within a shell's, too."""
    found = []
    for _, pod in rendered_case(case).pods():
        for container in containers(pod):
            words = [str(word) for word in container["command"]]
            if words[0] in ("sh", "bash"):
                parts = words[2].replace("&&", "|").split("|")
                lines = [shlex.split(part) for part in parts]
                lines = [line[1:] if line[0] == "exec" else line for line in lines]
            else:
                lines = [words]
            found += [line for line in lines if line[0].startswith("fathom-")]
    return found


def project(part: str) -> dict[str, Any]:
    """The project table of a distribution."""
    text = (ROOT / part / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["project"]
    return table


def parse(line: list[str]) -> argparse.Namespace:
    """Parse a command line as its program does; an unknown flag ends the test."""
    program, *rest = line
    if program == "fathom-serve":
        return serve_parser().parse_args(rest)
    if program == "fathom-gateway":
        return gateway_cli.build_parser().parse_args(rest)
    if program == "fathom-client":
        return client_parser().parse_args(rest)
    if program == "fathom-load":
        module = {"run": run, "worker": worker}[rest[0]]
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        return parser.parse_args(rest[1:])
    assert program == "fathom-export"
    if rest[0] == "plan":
        return plan_parser().parse_args(rest[1:])
    return export_cli._parser().parse_args(rest)


@pytest.mark.parametrize("case", CASES)
def test_every_command_line_is_one_that_its_program_takes(case: str) -> None:
    """The parsers of all five programs take what the chart writes, and settings made of it are valid."""
    lines = commands(case)
    assert {"fathom-serve", "fathom-gateway"} <= {line[0] for line in lines}
    for line in lines:
        given = vars(parse(line))
        if line[0] == "fathom-serve":
            assert given.pop("ports") is None
            gateway = given.pop("openai_port") is not None
            LaunchSettings(gateway=gateway, openai_port=None, **given)
        if line[0] == "fathom-load" and line[1] == "worker":
            assert worker.read_address(given["master"])[1] == WORKERS_PORT


def test_all_programs_are_started_by_some_case() -> None:
    """The check above sees export, plan, serve, gateway, client and load test, leader and worker."""
    seen = {tuple(line[:2]) for case in CASES for line in commands(case)}
    assert {("fathom-load", "run"), ("fathom-load", "worker"), ("fathom-export", "plan")} <= seen
    assert {("fathom-client", each) for each in ("wait", "models", "chat", "embed")} <= seen
    assert {"fathom-export", "fathom-serve", "fathom-gateway"} <= {program for program, _ in seen}


def test_programs_are_those_that_the_distributions_install() -> None:
    """Each program of the chart is a script of a distribution's pyproject.toml."""
    scripts = {name for part in PARTS for name in project(part)["scripts"]}
    assert {line[0] for case in CASES for line in commands(case)} <= scripts


def test_versions_are_those_of_the_distributions() -> None:
    """The chart's appVersion, by which images are named, is the version of all four distributions."""
    for part in PARTS:
        assert project(part)["version"] == loaded_chart().metadata["appVersion"]


def test_ports_are_those_on_which_the_programs_listen() -> None:
    """Container ports, flags and services are the code's own default ports."""
    rendered = render()
    server = rendered.server()["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert ports == {"http": DEFAULT_HTTP_PORT, "grpc": DEFAULT_GRPC_PORT, "metrics": DEFAULT_METRICS_PORT}
    given = parse(server["command"])
    assert (given.http_port, given.grpc_port, given.metrics_port) == tuple(ports.values())
    gateway = rendered.one("Deployment", "-gateway")["spec"]["template"]["spec"]["containers"][0]
    assert [port["containerPort"] for port in gateway["ports"]] == [GATEWAY_PORT] == [parse(gateway["command"]).port]
    service = rendered.one("Service", "-headless")
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == ports
    assert parse(gateway["command"]).target == f"{service['metadata']['name']}.prod.svc:{DEFAULT_GRPC_PORT}"


def test_probes_ask_paths_that_answer() -> None:
    """The gateway's probes ask its own routes; the server's are Triton's, for which the launcher waits."""
    routes = {route.path for module in (health, metrics) for route in module.router.routes}  # type: ignore[attr-defined]
    gateway = render().one("Deployment", "-gateway")["spec"]["template"]["spec"]["containers"][0]
    asked = {value["httpGet"]["path"] for key, value in gateway.items() if key.endswith("Probe")}
    assert asked == {"/health/live", "/health/ready"}
    assert asked <= routes
    assert "/metrics" in routes, "what a ServiceMonitor reads by default"
    launcher = (ROOT / "server" / "fathom_server" / "launcher" / "readiness.py").read_text(encoding="utf-8")
    assert render().server()["spec"]["containers"][0]["startupProbe"]["httpGet"]["path"] in launcher


@pytest.mark.parametrize("case", CASES)
def test_bundles_are_such_that_export_takes_them(case: str, tmp_path: Path) -> None:
    """Every bundle of the chart is read by fathom-export, and its models have the names that tests and plans use."""
    for each in rendered_case(case).of("ConfigMap", "-bundle"):
        (tmp_path / "bundle.toml").write_text(each["data"]["bundle.toml"], encoding="utf-8")
        names = {spec.name for spec in read_bundle(tmp_path / "bundle.toml").models}
        asked = {parse(line).model for line in commands(case) if line[:2] in (["fathom-export", "plan"],)}
        asked |= {parse(line).model for line in commands(case) if line[:2] in (["fathom-client", "chat"],)}
        assert asked <= names


def test_settings_of_the_gateway_are_its_own(tmp_path: Path) -> None:
    """The file that the chart writes is read by the gateway, whole numbers as whole numbers; an empty one, too."""
    file = tmp_path / "gateway.toml"
    file.write_text(rendered_case("ingress").one("ConfigMap", "-gateway")["data"]["gateway.toml"], encoding="utf-8")
    settings = GatewaySettings.load(file)
    assert (settings.requests_per_minute, settings.tokens_per_minute) == (600, 200_000)
    assert (settings.max_body_bytes, settings.keep_alive_s) == (16 << 20, 60)
    assert settings.cors_origins == ("https://app.example",)
    assert settings.log_prompts is False
    file.write_text(rendered_case("cpu").one("ConfigMap", "-gateway")["data"]["gateway.toml"], encoding="utf-8")
    assert GatewaySettings.load(file) == GatewaySettings()


def test_the_scenario_of_the_load_test_is_read(tmp_path: Path) -> None:
    """fathom-load reads the default scenario together with the chart's own target."""
    file = tmp_path / "scenario.toml"
    file.write_text(
        rendered_case("everything").one("ConfigMap", "-loadtest")["data"]["scenario.toml"], encoding="utf-8"
    )
    target = next(parse(line).url for line in commands("everything") if line[:2] == ["fathom-load", "run"])
    scenario = read_scenario(file, {"target.url": target})
    assert scenario.target.url == target
    assert scenario.model == "chat"


@pytest.mark.parametrize("case", CASES)
def test_drain_and_grace_follow_from_the_bundle(case: str, tmp_path: Path) -> None:
    """A drain lasts max_context (or maxTokens) times the time between tokens; the kubelet waits longer."""
    rendered = rendered_case(case)
    values = loaded_chart().merge_values(case_values(case))
    (tmp_path / "bundle.toml").write_text(values["bundle"], encoding="utf-8")
    longest = values["drain"]["maxTokens"] or max(
        spec.limits.get("max_context", LONGEST_CONTEXT)
        for spec in read_bundle(tmp_path / "bundle.toml").models
        if isinstance(spec, GenerateSpec)
    )
    drain_s = max(30, math.ceil(longest * values["drain"]["interTokenLatencyMs"] / 1000) + 5)
    given = {line[0]: parse(line).drain_s for line in commands(case) if line[0] in ("fathom-serve", "fathom-gateway")}
    assert given == {"fathom-serve": drain_s, "fathom-gateway": drain_s}
    for name, pod in rendered.pods():
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] in ("server", "gateway", "worker"):
            sleeps = [each["lifecycle"]["preStop"]["sleep"]["seconds"] for each in pod["spec"]["containers"]]
            ends = [sleeps[0] + drain_s, sleeps[0]][name.endswith("/worker")]
            assert pod["spec"]["terminationGracePeriodSeconds"] == ends + 10


def test_patience_of_the_probes_is_longer_than_the_launchers_own() -> None:
    """The launcher gives up before the kubelet does, at the start and when it starts Triton again."""
    for case in CASES:
        server = rendered_case(case).server()["spec"]["containers"][0]
        lines = [line for line in commands(case) if line[0] == "fathom-serve"]
        for probe in ("startupProbe", "livenessProbe"):
            allowed = server[probe]["failureThreshold"] * server[probe]["periodSeconds"]
            assert allowed > parse(lines[0]).ready_timeout_s


def test_scaling_asks_for_metrics_that_the_engine_has() -> None:
    """HPA and KEDA name metrics of the engine, or Triton's own, by the labels that a ServiceMonitor gives."""
    hpa = rendered_case("hpa").one("HorizontalPodAutoscaler")
    assert hpa["spec"]["metrics"][0]["pods"]["metric"]["name"] == metric_names.REQUESTS_WAITING
    queries = {}
    for metric in ("waitingRequests", "pendingRequests", "queueTime"):
        values = {"autoscaling": {"kind": "keda", "metric": metric, "prometheusUrl": "http://p"}}
        trigger = render(values).one("ScaledObject")["spec"]["triggers"][0]
        queries[metric] = trigger["metadata"]["query"]
        assert trigger["metricType"] == ("Value" if metric == "queueTime" else "AverageValue")
    series = '{namespace="prod",service="demo-fathom-headless"}'
    name = metric_names.QUEUE_TIME
    assert queries == {
        "waitingRequests": f"sum({metric_names.REQUESTS_WAITING}{series}) or vector(0)",
        "pendingRequests": f"sum(nv_inference_pending_request_count{series}) or vector(0)",
        "queueTime": f"sum(rate({name}_sum{series}[2m])) / (sum(rate({name}_count{series}[2m])) > 0) or vector(0)",
    }


def test_variables_are_those_that_the_programs_read() -> None:
    """HF_TOKEN and FATHOM_CACHE of the export, HOME of all: names that code or its libraries look up."""
    export = next(each for each in containers(rendered_case("everything").server()) if each["name"] == "export")
    names = {variable["name"] for variable in export["env"]}
    assert names == {"HOME", "HF_HOME", "FATHOM_CACHE", "HF_TOKEN", "HF_ENDPOINT"}
    from fathom_export.sources import hub, pypi

    assert pypi.CACHE_VARIABLE in names
    texts = {each.value for each in ast.walk(ast.parse(inspect.getsource(hub))) if isinstance(each, ast.Constant)}
    assert "HF_ENDPOINT" in texts
    assert any("HF_TOKEN" in text for text in texts if isinstance(text, str))
