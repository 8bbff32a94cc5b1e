"""Values that cannot work are refused, with a sentence that says why and what to do."""

from typing import Any

import helm_python
import pytest
from tests.deploy.chart.rendering import CHART, case_values, loaded_chart, render

GPU = {"image": {"target": "gpu"}, "gpu": {"count": 1}}
CLAIM = {"storage": {"kind": "claim"}}
ROUTES = {"enabled": True, "parentRefs": [{"name": "g"}]}

SENTENCES: list[tuple[dict[str, Any], str]] = [
    ({"bundle": "models = ["}, "bundle is no TOML"),
    ({"bundle": ""}, "bundle describes no model; give at least one"),
    ({"bundle": "models = 3"}, "bundle describes no model; give at least one"),
    ({"bundle": "[[models]]\nname = 'chat'"}, "without a name or a task"),
    ({"repository": {"source": "url"}}, "repository.url is empty; give s3://, gs:// or https://"),
    ({"repository": {"source": "existingClaim"}}, "name the PersistentVolumeClaim"),
    ({"repository": {"source": "image"}}, "repository.image.reference is empty; name the image"),
    ({"checkpoints": {"source": "url"}}, "checkpoints.url is empty"),
    (
        {"repository": {"source": "url", "url": "s3://b/r"}, "checkpoints": {"source": "url", "url": "s3://b/c"}},
        "nothing is exported",
    ),
    ({"server": {"image": {"target": "gpu"}}}, "server.gpu.count is 0: Triton would start without a GPU"),
    ({"server": {"gpu": {"count": 1}}}, "server.image.target is cpu, which cannot use a GPU"),
    ({"server": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}, "ask for GPUs with server.gpu.count"),
    ({"drain": {"graceSeconds": 60, "maxTokens": 2000}}, "is 60, but a stop takes up to 110 (preStopSeconds 5 and a d"),
    ({"drain": {"graceSeconds": 35, "maxTokens": 1}}, "the kubelet would cut answers off; allow more"),
    ({"plan": {"models": ["chat"]}}, "a plan is built on the GPU that serves it"),
    (CLAIM | {"plan": {"models": ["chat"]}, "server": GPU}, "plan.models needs a volume of each pod's own"),
    (
        {"plan": {"models": ["other"]}, "server": GPU},
        "plan.models names other, which bundle does not have; it has: chat",
    ),
    ({"multiNode": {"enabled": True}}, "multiNode.image is empty"),
    ({"multiNode": {"enabled": True, "image": "i:1"}}, "say how many GPUs each node has"),
    (
        {"multiNode": {"enabled": True, "image": "i:1"}, "server": GPU, "storage": {"kind": "perPod"}},
        "a LeaderWorkerSet keeps no volume of each pod's own",
    ),
    ({"autoscaling": {"minReplicas": 5}}, "minReplicas is 5, but maxReplicas is 4"),
    ({"autoscaling": {"kind": "hpa", "metric": "queueTime"}}, "take kind keda, or the metric waitingRequests"),
    ({"autoscaling": {"kind": "keda"}}, "give Prometheus's address"),
    ({"ingress": {"enabled": True}, "gateway": {"enabled": False}}, "there is nothing that it could lead to"),
    ({"gatewayApi": {"enabled": True}}, "name the Gateway that the routes belong to"),
    (
        {"gatewayApi": {"enabled": True, "parentRefs": [{"name": "g"}]}, "gateway": {"enabled": False}},
        "there is no route to make",
    ),
    (
        {"server": {"tls": {"serverName": "a.example"}}},
        "server.tls.serverName is given, but server.tls.secret is empty: nothing is encrypted there; name the secret",
    ),
    ({"server": {"tls": {"ca": {"secret": "a"}}}}, "server.tls.ca.secret is given, but server.tls.secret is empty"),
    (
        {"server": {"tls": {"clients": {"ca": {"secret": "a"}}}}},
        "server.tls.clients.ca.secret is given, but server.tls.secret is empty",
    ),
    (
        {"server": {"tls": {"clients": {"secret": "a"}}}},
        "server.tls.clients.secret is given, but server.tls.secret is empty",
    ),
    ({"gateway": {"tls": {"ca": {"secret": "a"}}}}, "gateway.tls.ca.secret is given, but gateway.tls.secret is empty"),
    (
        {"server": {"tls": {"secret": "t", "clients": {"secret": "a"}}}},
        "callers are asked for no certificate; name the authority that signs theirs",
    ),
    (
        {"server": {"tls": {"secret": "t", "clients": {"ca": {"secret": "a"}}}}},
        "gateway, tests and load test would not be let in; name the secret with their certificate and key",
    ),
    ({"gateway": {"enabled": False, "tls": {"secret": "t"}}}, "gateway.enabled is false: there is nothing to encrypt"),
    (
        {"server": {"tls": {"secret": "t"}}, "gatewayApi": ROUTES | {"grpcHostnames": ["g.example"]}},
        "a route speaks in the clear by itself; add a BackendTLSPolicy for that service to extraObjects",
    ),
    (
        {"gateway": {"tls": {"secret": "t"}}, "gatewayApi": ROUTES},
        "an HTTPRoute to the gateway, whose HTTP gateway.tls.secret encrypts",
    ),
    ({"server": {"env": [{"name": "HOME", "value": "/"}]}}, "server.env sets HOME, which the chart sets itself"),
    ({"export": {"env": [{"name": "A"}, {"name": "A"}]}}, "export.env sets A twice"),
    ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "which the chart sets itself; choose another name"),
    ({"commonLabels": {"a": "1"}, "server": {"podLabels": {"a": "2"}}}, "and commonLabels both have a; keep one"),
]

BY_SCHEMA: list[tuple[dict[str, Any], str]] = [
    ({"autoscaling": {"kind": ["hpa", "keda"]}}, "/autoscaling/kind"),
    ({"autoscaling": {"kind": "both"}}, "'none', 'hpa', 'keda'"),
    ({"autoscaling": {"hpa": {"enabled": True}, "keda": {}}}, "at '/autoscaling': additional properties"),
    ({"fullnameOverride": "*"}, "/fullnameOverride"),
    ({"autoscaling": {"minReplicas": 0}}, "/autoscaling/minReplicas"),
    ({"server": {"replica": 2}}, "additional properties 'replica' not allowed"),
    ({"server": {"replicas": "two"}}, "/server/replicas"),
    ({"server": {"image": {"digest": "sha256:12"}}}, "/server/image/digest"),
    ({"server": {"resources": {"limits": {"memory": "much"}}}}, "/server/resources/limits/memory"),
    ({"repository": {"url": "ftp://host/models"}}, "/repository/url"),
    ({"gateway": {"settings": {"port": 80}}}, "/gateway/settings"),
    ({"gateway": {"settings": {"target_ca": "/ca.pem"}}}, "/gateway/settings"),
    ({"gateway": {"settings": {"tls_key": "/key.pem"}}}, "/gateway/settings"),
    ({"server": {"tls": {"serverName": "a b; c"}}}, "/server/tls/serverName"),
    ({"podSecurity": {"runAsUser": 0}}, "/podSecurity/runAsUser"),
    ({"storage": {"size": "big"}}, "/storage/size"),
]


@pytest.mark.parametrize(("values", "sentence"), SENTENCES)
def test_values_that_do_not_go_together_are_refused_with_a_sentence(values: dict[str, Any], sentence: str) -> None:
    """Rendering ends with the reason and the remedy."""
    with pytest.raises(helm_python.HelmError) as refusal:
        render(values)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(("values", "place"), BY_SCHEMA)
def test_values_of_a_wrong_form_are_refused_by_the_schema(values: dict[str, Any], place: str) -> None:
    """The schema names the value; HPA and KEDA together cannot even be said."""
    with pytest.raises(helm_python.HelmError) as refusal:
        loaded_chart().validate_schema(values)
    assert place in str(refusal.value)
    with pytest.raises(helm_python.HelmError):
        render(values)


def test_a_volume_of_an_image_is_refused_by_a_cluster_that_is_too_old(capfd: pytest.CaptureFixture[str]) -> None:
    """On Kubernetes 1.30 the linter says that volumes of images came with 1.31; on 1.31 it says nothing."""
    helm_python.lint(str(CHART), case_values("image-volume"), strict=True, kube_version="v1.31.0")
    assert "volumes of images" not in capfd.readouterr().err
    helm_python.lint(str(CHART), case_values("image-volume"), strict=True, kube_version="v1.30.0")
    assert "this cluster is v1.30.0; volumes of images came with Kubernetes 1.31" in capfd.readouterr().err
