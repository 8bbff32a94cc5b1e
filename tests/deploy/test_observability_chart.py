"""The chart brings the same rules and dashboards, and points the rules at its own series."""

import json
import re
from typing import Any

import helm_python
import pytest
import yaml
from deploy.observability.dashboards import dashboard_texts
from deploy.observability.expressions import GATEWAY, SERVER
from deploy.observability.rules import rules_text
from tests.deploy.chart.rendering import CHART, render

MONITORED: dict[str, Any] = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
DASHBOARDS: dict[str, Any] = {"dashboards": {"enabled": True}}
SERVERS_SERIES = 'namespace="prod",service="demo-fathom-headless"'
GATEWAYS_SERIES = 'namespace="prod",service="demo-fathom-gateway"'


def test_the_charts_copies_are_the_same() -> None:
    """Helm reads only files within the chart; python -m deploy.chart copies them there, and no others."""
    assert (CHART / "files" / "rules.yml").read_text(encoding="utf-8") == rules_text()
    files = {file.name: file.read_text(encoding="utf-8") for file in (CHART / "files" / "dashboards").iterdir()}
    assert files == dashboard_texts()


def test_renders_every_rule_over_the_releases_own_series() -> None:
    """All groups are there; only the matchers differ, which are those that a ServiceMonitor's series have."""
    rendered = render(MONITORED)
    text = json.dumps(rendered.one("PrometheusRule")["spec"])
    own = rules_text().replace(SERVER, SERVERS_SERIES).replace(GATEWAY, GATEWAYS_SERIES)
    assert json.loads(text) == yaml.safe_load(own)
    assert SERVER.replace('"', '\\"') not in text
    assert GATEWAY.replace('"', '\\"') not in text
    services = {each["metadata"]["name"] for each in rendered.of("Service")}
    assert {"demo-fathom-headless", "demo-fathom-gateway"} <= services


def test_renders_every_dashboard_unchanged() -> None:
    """A ConfigMap each, with the sidecar's label; what Grafana fills in is not taken for Helm's."""
    maps = render(DASHBOARDS).of("ConfigMap")
    boards = [each for each in maps if each["metadata"]["name"].endswith("-dashboard")]
    found = {name: json.loads(text) for each in boards for name, text in each["data"].items()}
    assert found == {f"fathom-{name}": json.loads(text) for name, text in dashboard_texts().items()}
    assert all(each["metadata"]["labels"]["grafana_dashboard"] == "1" for each in boards)


def test_renders_no_rule_and_no_dashboard_by_default() -> None:
    """Both need what a cluster may lack."""
    rendered = render()
    assert "PrometheusRule" not in rendered.kinds()
    assert not [each for each in rendered.of("ConfigMap") if each["metadata"]["name"].endswith("-dashboard")]


def test_rules_without_a_monitor_are_refused() -> None:
    """They would name labels that no series has."""
    refusal = re.escape("prometheusRule.enabled is true, but serviceMonitor.enabled is false")
    with pytest.raises(helm_python.HelmError, match=refusal):
        render({"prometheusRule": {"enabled": True}})


def test_renders_a_collector_for_servers_and_gateways_when_it_is_given() -> None:
    """Both are told of it, and may reach its port; without one neither is."""
    given: dict[str, Any] = {
        "networkPolicy": {"enabled": True},
        "tracing": {"otlpEndpoint": "http://collector.ops:4318"},
    }
    rendered = render(given)
    flag = "--otlp-endpoint=http://collector.ops:4318"
    for name, pod in rendered.pods():
        wants = pod["metadata"]["labels"]["app.kubernetes.io/component"] in ("server", "gateway")
        assert any(flag in each["command"] for each in pod["spec"]["containers"]) == wants, name
    for part in ("-server", "-gateway"):
        egress = rendered.one("NetworkPolicy", part)["spec"]["egress"]
        assert {"ports": [{"protocol": "TCP", "port": 4318}]} in egress
    assert "otlp" not in json.dumps(render().objects)


@pytest.mark.parametrize(("endpoint", "port"), [("http://collector", 80), ("https://collector.example", 443)])
def test_a_collector_without_a_port_is_reached_on_its_schemes(endpoint: str, port: int) -> None:
    """80 for http, 443 for https."""
    rendered = render({"networkPolicy": {"enabled": True}, "tracing": {"otlpEndpoint": endpoint}})
    assert {"ports": [{"protocol": "TCP", "port": port}]} in rendered.one("NetworkPolicy", "-gateway")["spec"]["egress"]


@pytest.mark.parametrize("endpoint", ["collector:4318", "http://collector/v1/traces", "http://a b", "http://c;reboot"])
def test_a_collectors_address_with_more_than_host_and_port_is_refused(endpoint: str) -> None:
    """The schema takes what fathom-serve takes."""
    with pytest.raises(helm_python.HelmError, match="otlpEndpoint"):
        render({"tracing": {"otlpEndpoint": endpoint}})
