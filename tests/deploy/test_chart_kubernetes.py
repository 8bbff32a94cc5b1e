"""What the chart renders is what Kubernetes takes: every ci file, every version from 1.30 on."""

import helm_python
import jsonschema
import pytest
from kubernetes_validate.utils import major_minor
from tests.deploy.chart.api_schemas import VERSIONS, faults
from tests.deploy.chart.custom_resources import CUSTOM_RESOURCES
from tests.deploy.chart.rendering import CASES, CHART, case_values, containers, render, rendered_case

MATRIX = [
    (case, version)
    for case in CASES
    for version in VERSIONS
    if (case, major_minor(version)) != ("image-volume", "1.30")
]
"""Volumes of images came with Kubernetes 1.31, and the chart refuses them before."""


def nulls(value: object, path: str = "") -> list[str]:
    """Where a value is null, which the schemas allow and a template never means."""
    if isinstance(value, dict):
        return [found for key, each in value.items() for found in nulls(each, f"{path}.{key}")]
    if isinstance(value, list):
        return [found for number, each in enumerate(value) for found in nulls(each, f"{path}[{number}]")]
    return [path] if value is None else []


def test_versions_reach_from_the_oldest_that_the_chart_takes_to_the_newest_known() -> None:
    """The matrix has eight versions, the chart's own oldest among them."""
    assert len(VERSIONS) >= 8
    assert f">={major_minor(VERSIONS[0])}.0-0" in (CHART / "Chart.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("case", "version"), MATRIX)
def test_objects_fit_the_schemas_of_each_version(case: str, version: str) -> None:
    """No object has a field that is unknown or of the wrong type."""
    rendered = rendered_case(case)
    own = [each for each in rendered.objects if each["apiVersion"] not in CUSTOM_RESOURCES]
    assert [fault for each in own for fault in faults(version, each)] == []
    for _, pod in rendered.pods():
        whole = {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {"name": "pod", **pod["metadata"]}}
        assert faults(version, whole) == []


def test_the_schemas_refuse_an_unknown_field_and_a_wrong_type() -> None:
    """What is checked is checked strictly: a field too many or a number for a text is found."""
    service = rendered_case("cpu").one("Service", "-headless")
    assert faults(VERSIONS[-1], service) == []
    assert faults(VERSIONS[-1], {**service, "spec": {**service["spec"], "clusterIp": "None"}})
    assert faults(VERSIONS[-1], {**service, "spec": {**service["spec"], "clusterIP": 1}})


@pytest.mark.parametrize("case", CASES)
def test_custom_resources_fit_their_definitions(case: str) -> None:
    """ServiceMonitor, ScaledObject, routes and LeaderWorkerSet have no field that their CRDs lack."""
    for each in rendered_case(case).objects:
        if each["apiVersion"] in CUSTOM_RESOURCES:
            jsonschema.validate(each, CUSTOM_RESOURCES[each["apiVersion"]][each["kind"]])


def test_every_custom_resource_is_rendered_by_some_case() -> None:
    """No definition stands here unused."""
    seen = {each["kind"] for case in CASES for each in rendered_case(case).objects}
    assert {kind for kinds in CUSTOM_RESOURCES.values() for kind in kinds} <= seen


@pytest.mark.parametrize("case", CASES)
def test_strict_lint_finds_nothing(case: str) -> None:
    """Helm's linter, warnings counted as errors, has nothing to say of any ci file; an icon is not needed."""
    report = helm_python.lint(str(CHART), case_values(case), strict=True, kube_version=f"v{VERSIONS[-1]}")
    assert report["errors"] == []
    assert [each["error"] for each in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("case", CASES)
def test_a_second_rendering_is_the_first(case: str) -> None:
    """An upgrade with the same values changes nothing, whatever the revision."""
    assert render(case_values(case), is_upgrade=True, revision=7).texts == rendered_case(case).texts


@pytest.mark.parametrize("case", CASES)
def test_lists_that_kubernetes_merges_by_key_have_each_key_once(case: str) -> None:
    """A server-side apply refuses an environment variable, port, mount, volume or container given twice."""
    for name, pod in rendered_case(case).pods():
        lists = {"containers": [each["name"] for each in containers(pod)]}
        lists["volumes"] = [each["name"] for each in pod["spec"].get("volumes", [])]
        lists["ports"] = [port["name"] for each in containers(pod) for port in each.get("ports", [])]
        for each in containers(pod):
            lists[f"{each['name']} env"] = [variable["name"] for variable in each.get("env", [])]
            lists[f"{each['name']} mounts"] = [mount["mountPath"] for mount in each.get("volumeMounts", [])]
            numbers = [(port["containerPort"], port.get("protocol")) for port in each.get("ports", [])]
            lists[f"{each['name']} port numbers"] = numbers
        for what, keys in lists.items():
            assert len(keys) == len(set(keys)), f"{name}: {what}"
    assert not [path for each in rendered_case(case).objects for path in nulls(each)]
    identities = [(each["kind"], each["metadata"]["name"]) for each in rendered_case(case).objects]
    assert len(identities) == len(set(identities))
    for service in rendered_case(case).of("Service"):
        names = [port["name"] for port in service["spec"]["ports"]]
        assert len(names) == len(set(names))
