"""What holds for every pod, label, name and reference of the chart, in every ci file."""

from typing import Any

import pytest
from tests.deploy.chart.rendering import CASES, case_values, containers, render, rendered_case

RESTRICTED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
"""Of those that the restricted Pod Security Standard lists, what the chart uses."""

STANDARD_LABELS = ("name", "instance", "component", "version", "part-of", "managed-by")
MAX_NAME = 52


def restricted_faults(pod: dict[str, Any]) -> list[str]:
    """What the restricted Pod Security Standard would refuse a pod for, in its own order of controls."""
    spec = pod["spec"]
    security = spec.get("securityContext", {})
    faults = [field for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    if security.get("runAsNonRoot") is not True:
        faults.append("runAsNonRoot")
    if security.get("runAsUser") == 0:
        faults.append("runAsUser")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        faults.append("seccompProfile")
    for container in containers(pod):
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            faults.append(f"{container['name']}: allowPrivilegeEscalation")
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
            faults.append(f"{container['name']}: capabilities")
        if own.get("privileged") or own.get("procMount") or own.get("runAsUser") == 0:
            faults.append(f"{container['name']}: privileges")
        faults += [f"{container['name']}: hostPort" for port in container.get("ports", []) if port.get("hostPort")]
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= RESTRICTED_VOLUMES:
            faults.append(f"volume {volume['name']}: {', '.join(kinds)}")
    return faults


@pytest.mark.parametrize("case", CASES)
def test_pods_meet_the_restricted_standard_and_more(case: str) -> None:
    """No pod could be refused by it but for a volume of an image; roots are read-only, and no token is mounted."""
    for name, pod in rendered_case(case).pods():
        allowed = ["volume models: image"] if case == "image-volume" and name.endswith("-server") else []
        assert restricted_faults(pod) == allowed, name
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), f"{name} {container['name']}"
            assert "memory" in container["resources"]["limits"], f"{name} {container['name']}"


@pytest.mark.parametrize("fault", ["root", "capability", "escalation", "seccomp", "host path"])
def test_the_check_of_the_standard_finds_what_breaks_it(fault: str) -> None:
    """A pod that breaks the standard in one place is found out."""
    pod = render().server()
    container = pod["spec"]["containers"][0]
    match fault:
        case "root":
            pod["spec"]["securityContext"]["runAsUser"] = 0
        case "capability":
            container["securityContext"]["capabilities"]["add"] = ["SYS_ADMIN"]
        case "escalation":
            del container["securityContext"]["allowPrivilegeEscalation"]
        case "seccomp":
            del pod["spec"]["securityContext"]["seccompProfile"]
        case _:
            pod["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    assert len(restricted_faults(pod)) == 1


@pytest.mark.parametrize("case", CASES)
def test_names_and_labels_fit_and_tell(case: str) -> None:
    """Names have at most 52 characters, label values 63; objects and pods have the standard labels."""
    rendered = rendered_case(case)
    own = [each for each in rendered.objects if "helm.sh/chart" in each["metadata"].get("labels", {})]
    extra = len(case_values(case).get("extraObjects", []))
    assert len(own) == len(rendered.objects) - extra
    for metadata in [*(each["metadata"] for each in own), *(pod["metadata"] for _, pod in rendered.pods())]:
        assert len(metadata.get("name", "")) <= MAX_NAME
        for label in STANDARD_LABELS:
            assert f"app.kubernetes.io/{label}" in metadata["labels"]
        assert all(len(value) <= 63 for value in metadata["labels"].values())
    assert all(each["metadata"]["namespace"] == "prod" for each in own)


@pytest.mark.parametrize("name", ["a", "a" * 53, "fathom"])
def test_names_stay_apart_when_they_are_cut(name: str) -> None:
    """Two long names that differ at their end give objects that do, each with its part's own word whole."""
    values = case_values("everything") | {"nameOverride": "", "fullnameOverride": ""}
    first = {(each["kind"], each["metadata"]["name"]) for each in render(values, name=name).objects}
    assert len(first) == len(render(values, name=name).objects)
    assert all(len(each) <= MAX_NAME for _, each in first if each not in {f"{name}-extra", f"{name}-text"})
    if len(name) == 53:
        second = {(each["kind"], each["metadata"]["name"]) for each in render(values, name="a" * 52 + "b").objects}
        assert not first & second
    assert any(each.endswith("-headless") for _, each in first)


@pytest.mark.parametrize("case", CASES)
def test_selectors_find_the_pods_that_are_meant(case: str) -> None:
    """A workload's selector finds its own pods alone; every service finds pods and ports."""
    rendered = rendered_case(case)
    pods = [pod for _, pod in rendered.pods()]
    for each in [*rendered.of("Deployment"), *rendered.of("StatefulSet")]:
        found = matching(pods, each["spec"]["selector"]["matchLabels"])
        assert found == [each["spec"]["template"]]
        assert "app.kubernetes.io/version" not in each["spec"]["selector"]["matchLabels"]
    for service in rendered.of("Service"):
        found = matching(pods, service["spec"]["selector"])
        assert len(found) == 1, service["metadata"]["name"]
        ports = {port["name"] for container in containers(found[0]) for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for budget in rendered.of("PodDisruptionBudget"):
        assert len(matching(pods, budget["spec"]["selector"]["matchLabels"])) == 1
    services = {service["metadata"]["name"]: service for service in rendered.of("Service")}
    for monitor in rendered.of("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [each for each in services.values() if wanted <= each["metadata"]["labels"].items()]
        assert len(found) == 1
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in found[0]["spec"]["ports"]}
    for route in [*rendered.of("HTTPRoute"), *rendered.of("GRPCRoute")]:
        backend = route["spec"]["rules"][0]["backendRefs"][0]
        assert backend["port"] in {port["port"] for port in services[backend["name"]]["spec"]["ports"]}


def matching(pods: list[dict[str, Any]], selector: dict[str, str]) -> list[dict[str, Any]]:
    return [pod for pod in pods if selector.items() <= pod["metadata"]["labels"].items()]


@pytest.mark.parametrize("case", CASES)
def test_what_pods_refer_to_is_there(case: str) -> None:
    """Mounts name volumes, volumes name config maps and claims of the release or of the values, probes name ports."""
    rendered = rendered_case(case)
    named = str(case_values(case))
    for name, pod in rendered.pods():
        templates = [
            claim["metadata"]["name"]
            for each in rendered.of("StatefulSet")
            if each["spec"]["template"] is pod
            for claim in each["spec"]["volumeClaimTemplates"]
        ]
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])} | set(templates)
        mounted = {mount["name"] for each in containers(pod) for mount in each.get("volumeMounts", [])}
        assert mounted == volumes, name
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume:
                rendered.one("ConfigMap", volume["configMap"]["name"])
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert claim in named or rendered.one("PersistentVolumeClaim", claim)
            if "secret" in volume:
                assert volume["secret"]["secretName"] in named
        for each in containers(pod):
            ports = {port["name"] for port in each.get("ports", [])}
            probes = [value for key, value in each.items() if key.endswith("Probe")]
            assert {probe["httpGet"]["port"] for probe in probes} <= ports
            assert ":latest" not in each["image"]
            assert ":" in each["image"] or "@" in each["image"]
        account = pod["spec"]["serviceAccountName"]
        assert account in named or rendered.one("ServiceAccount", account)
