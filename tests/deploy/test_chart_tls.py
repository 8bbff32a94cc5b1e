"""The chart's encryption: who gets which files, who asks how, and that none of it is there when it is not wanted."""

import re
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.chart.rendering import CASES, case_values, containers, render, rendered_case

from fathom_client import Tls
from fathom_loadtest.commands import run
from fathom_loadtest.scenario.target import TlsFiles
from fathom_server.gateway.settings import GatewaySettings

FILES = re.compile(r"/etc/fathom/[\w.-]+/[\w.-]+")
PLAIN = {"server": {"tls": {"secret": "triton-tls"}}}
"""Encryption with nothing else said."""


def mounted(pod: dict[str, Any], container: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The files that a container gets from secrets by the paths at which it sees them: secret and key."""
    volumes = {volume["name"]: volume["secret"] for volume in pod["spec"].get("volumes", []) if "secret" in volume}
    return {
        f"{mount['mountPath']}/{item['path']}": (volumes[mount["name"]]["secretName"], item["key"])
        for mount in container.get("volumeMounts", [])
        for item in volumes.get(mount["name"], {}).get("items", [])
    }


@pytest.mark.parametrize("case", [*CASES, None])
def test_every_file_that_is_named_is_mounted_and_every_mounted_one_named(case: str | None) -> None:
    """What a command line or the gateway's settings name lies where they say; a worker is told by its leader."""
    rendered = render(PLAIN) if case is None else rendered_case(case)
    settings = "".join(each["data"]["gateway.toml"] for each in rendered.of("ConfigMap", "-gateway"))
    for name, pod in rendered.pods():
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for container in containers(pod):
            text = " ".join(map(str, container["command"]))
            text += settings if container["command"][0] == "fathom-gateway" else ""
            named = {file for file in FILES.findall(text) if not file.endswith((".toml", "/key"))}
            files = mounted(pod, container).keys()
            if component == "worker" or container["command"][:2] == ["fathom-load", "worker"]:
                assert named <= files, name
            else:
                assert named == files, f"{name} {container['name']}"


def test_nobody_but_the_server_has_its_key() -> None:
    """Callers get the authority's certificate out of the very secret that has the key, and not the key."""
    for case in ("tls", "everything"):
        keys = [
            (pod["metadata"]["labels"]["app.kubernetes.io/component"], secret)
            for _, pod in rendered_case(case).pods()
            for container in containers(pod)
            for secret, key in mounted(pod, container).values()
            if key == "tls.key"
        ]
        assert [component for component, secret in keys if secret == "triton-tls"] == ["server"]
        assert [component for component, secret in keys if secret == "gateway-tls"] == ["gateway"]


def test_without_a_secret_nothing_is_encrypted() -> None:
    """By default no command, volume, probe or service speaks of TLS."""
    rendered = render({"loadtest": {"enabled": True}, "serviceMonitor": {"enabled": True}})
    for name, pod in rendered.pods():
        assert not any("secret" in volume for volume in pod["spec"].get("volumes", [])), name
        for container in containers(pod):
            assert "tls" not in str(container), f"{name} {container['name']}"
    assert "tls" not in rendered.one("ConfigMap", "-gateway")["data"]["gateway.toml"]
    assert "tlsConfig" not in str(rendered.objects)
    protocols = {port.get("appProtocol") for each in rendered.of("Service") for port in each["spec"]["ports"]}
    assert protocols == {None, "http", "kubernetes.io/h2c"}


def test_services_and_probes_say_what_is_spoken() -> None:
    """With certificates gRPC and the gateway are https to whoever looks, and the kubelet asks the gateway so."""
    rendered = rendered_case("tls")
    ports = {port["name"]: port for each in rendered.of("Service") for port in each["spec"]["ports"]}
    assert (ports["grpc"]["appProtocol"], ports["openai"]["appProtocol"]) == ("https", "https")
    gateway = rendered.one("Deployment", "-gateway")["spec"]["template"]["spec"]["containers"][0]
    probes = [value["httpGet"]["scheme"] for key, value in gateway.items() if key.endswith("Probe")]
    assert probes == ["HTTPS"] * 3
    server = rendered.server()["spec"]["containers"][0]
    assert all("scheme" not in value["httpGet"] for key, value in server.items() if key.endswith("Probe"))
    only_grpc = render(PLAIN)
    assert only_grpc.one("Service", "-gateway")["spec"]["ports"][0]["appProtocol"] == "http"


def test_the_gateway_knows_whom_it_asks_and_who_it_is(tmp_path: Path) -> None:
    """Its settings have authority, name and its own certificates; without a name it is the address that counts."""
    file = tmp_path / "gateway.toml"
    file.write_text(rendered_case("tls").one("ConfigMap", "-gateway")["data"]["gateway.toml"], encoding="utf-8")
    settings = GatewaySettings.load(file)
    folder = Path("/etc/fathom")
    assert (settings.target_ca, settings.target_server_name) == (folder / "server-ca/ca.crt", "triton.example")
    assert (settings.target_cert, settings.target_key) == (folder / "client-tls/tls.crt", folder / "client-tls/tls.key")
    assert (settings.tls_cert, settings.tls_key) == (folder / "https/tls.crt", folder / "https/tls.key")
    file.write_text(render(PLAIN).one("ConfigMap", "-gateway")["data"]["gateway.toml"], encoding="utf-8")
    assert GatewaySettings.load(file) == GatewaySettings(target_ca=folder / "server-ca/ca.crt")


def test_another_name_starts_new_gateways() -> None:
    """Settings are read at the start, so pods are marked by all that stands in them."""

    def mark(name: str) -> str:
        pods = dict(render({"server": {"tls": {"secret": "t", "serverName": name}}}).pods())
        marked: str = pods["Deployment/demo-fathom-gateway"]["metadata"]["annotations"]["fathom/settings"]
        return marked

    assert mark("a.example") != mark("b.example")


def test_the_load_test_asks_as_the_gateway_does(tmp_path: Path) -> None:
    """fathom-load makes a target of the flags with the same authority, name and certificate."""
    (tmp_path / "scenario.toml").write_text(case_scenario(), encoding="utf-8")
    parser = ArgumentParser()
    run.add_arguments(parser)
    leader = next(
        container["command"]
        for _, pod in rendered_case("tls").pods()
        for container in containers(pod)
        if container["command"][:2] == ["fathom-load", "run"]
    )
    scenario = run.scenario_of(parser.parse_args([str(tmp_path / "scenario.toml"), *leader[3:]]))
    client = Path("/etc/fathom/client-tls")
    assert scenario.target.tls == TlsFiles(
        ca=Path("/etc/fathom/server-ca/ca.crt"),
        certificate=client / "tls.crt",
        key=client / "tls.key",
        server_name="triton.example",
    )
    assert TlsFiles.__dataclass_fields__.keys() == Tls.__dataclass_fields__.keys(), "all that a caller may need"


def case_scenario() -> str:
    """The scenario that the chart writes."""
    scenario: str = rendered_case("tls").one("ConfigMap", "-loadtest")["data"]["scenario.toml"]
    return scenario


def test_prometheus_reads_the_gateway_by_its_name() -> None:
    """It comes to a pod's address, which no certificate has: the service's name is looked for, or the one given."""
    tls = rendered_case("tls").one("ServiceMonitor", "-gateway")["spec"]["endpoints"][0]
    assert tls["scheme"] == "https"
    assert tls["tlsConfig"] == {
        "ca": {"secret": {"name": "gateway-ca", "key": "ca.crt"}},
        "serverName": "demo-fathom-gateway.prod.svc",
    }
    assert rendered_case("everything").one("ServiceMonitor", "-gateway")["spec"]["endpoints"][0]["tlsConfig"] == {
        "ca": {"secret": {"name": "gateway-tls", "key": "ca.crt"}},
        "serverName": "api.example",
    }
    assert "scheme" not in rendered_case("tls").one("ServiceMonitor", "-server")["spec"]["endpoints"][0]


def test_callers_of_ones_own_need_no_certificate_of_the_charts() -> None:
    """Mutual TLS without gateway, tests and load test is for others alone, and takes no secret of callers."""
    values = {
        "server": {"tls": {"secret": "t", "clients": {"ca": {"secret": "callers-ca"}}}},
        "gateway": {"enabled": False},
        "tests": {"enabled": False},
    }
    server = render(values).server()
    assert mounted(server, server["spec"]["containers"][0])["/etc/fathom/client-ca/ca.crt"] == ("callers-ca", "ca.crt")
    assert "--tls-client-ca=/etc/fathom/client-ca/ca.crt" in server["spec"]["containers"][0]["command"]


def test_notes_tell_how_to_ask_what_is_encrypted() -> None:
    """They fetch the authorities, name what the certificates are for, and remember the ingress."""
    notes = rendered_case("tls").notes
    assert "get secret triton-tls --output go-template='{{index .data \"ca.crt\" | base64decode}}'" in notes
    assert "fathom-client --tls-ca server-ca.crt --tls-server-name triton.example --tls-certificate YOURS" in notes
    name = "demo-fathom-gateway.prod.svc"
    assert f"--connect-to {name}:443:localhost:9000 https://{name}/v1/models" in notes
    assert "tell the ingress controller so" in notes
    assert "--tls-server-name demo-fathom-headless.prod.svc status" in render(PLAIN).notes
    assert "tls" not in render().notes


def test_routes_to_what_is_encrypted_need_a_policy() -> None:
    """The case with everything has one for each service, of the service's own name."""
    rendered = rendered_case("everything")
    targets = {each["spec"]["targetRefs"][0]["name"] for each in rendered.of("BackendTLSPolicy")}
    routed = {
        route["spec"]["rules"][0]["backendRefs"][0]["name"]
        for kind in ("HTTPRoute", "GRPCRoute")
        for route in rendered.of(kind)
    }
    assert targets == routed
    assert len(targets) == 2
    assert case_values("everything")["server"]["tls"]["secret"]
