"""What the chart makes, and what it does not make, when a value says so."""

from typing import Any

import jsonschema
import pytest
from deploy.chart.values_file import leaves, read_values
from tests.deploy.chart.api_schemas import VERSIONS, faults
from tests.deploy.chart.custom_resources import CUSTOM_RESOURCES
from tests.deploy.chart.rendering import CHART, case_values, containers, render, rendered_case

from fathom_loadtest.workers.secret import VARIABLE
from fathom_server.launcher.repository_check import SHARED_MEMORY

GPU_SERVER = {"image": {"target": "gpu"}, "gpu": {"count": 2}}


def init_names(pod: dict[str, Any]) -> list[str]:
    return [each["name"] for each in pod["spec"].get("initContainers", [])]


def test_by_default_there_is_a_server_a_gateway_and_nothing_that_a_cluster_may_lack() -> None:
    """The default renders no custom resource, no policy, no route, no claim, no Job and no secret."""
    assert render().kinds() == {
        "ConfigMap", "Deployment", "Pod", "PodDisruptionBudget", "Service", "ServiceAccount",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"gateway": {"enabled": False}}, "Deployment/gateway"),
        ({"tests": {"enabled": False}}, "Pod"),
        ({"podDisruptionBudget": {"enabled": False}}, "PodDisruptionBudget"),
        ({"serviceAccount": {"create": False}}, "ServiceAccount"),
    ],
)
def test_renders_no_such_object_when_it_is_turned_off(values: dict[str, Any], kind: str) -> None:
    """What is on by default is gone when it is off."""
    kind, _, end = kind.partition("/")
    assert render().of(kind, end)
    assert not render(values).of(kind, end)


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_renders_no_replicas_when_something_scales(kind: str) -> None:
    """An upgrade must not undo what was decided; so neither Deployment nor StatefulSet names a number then."""
    scaling = {"autoscaling": {"kind": kind, "prometheusUrl": "http://p"}}
    for storage in ("emptyDir", "perPod"):
        rendered = render(scaling | {"storage": {"kind": storage}})
        (server,) = [*rendered.of("Deployment", "-server"), *rendered.of("StatefulSet", "-server")]
        assert "replicas" not in server["spec"]
        scaler = rendered.one("HorizontalPodAutoscaler" if kind == "hpa" else "ScaledObject")
        assert scaler["spec"]["scaleTargetRef"] == {
            "apiVersion": "apps/v1", "kind": server["kind"], "name": server["metadata"]["name"],
        }  # fmt: skip
    assert render({"server": {"replicas": 3}}).one("Deployment", "-server")["spec"]["replicas"] == 3


def test_renders_a_statefulset_only_when_pods_keep_their_own_volume() -> None:
    """storage.kind perPod gives each pod a claim; its labels are the selector's alone, as they may never change."""
    rendered = render({"storage": {"kind": "perPod", "storageClass": "fast", "size": "7Gi"}})
    assert not rendered.of("Deployment", "-server")
    server = rendered.one("StatefulSet", "-server")
    (claim,) = server["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "7Gi"
    assert claim["metadata"]["labels"] == server["spec"]["selector"]["matchLabels"]
    assert rendered.one("Service", server["spec"]["serviceName"])["spec"]["clusterIP"] == "None"
    assert not render({"storage": {"kind": "emptyDir"}}).of("StatefulSet")
    existing = {"source": "existingClaim", "existingClaim": {"name": "c"}}
    assert not render({"storage": {"kind": "perPod"}, "repository": existing}).of("StatefulSet")


def test_renders_a_job_and_a_claim_only_when_one_volume_is_for_all() -> None:
    """With storage.kind claim a Job fills the volume and pods wait for it; otherwise each pod fills its own first."""
    rendered = render({"storage": {"kind": "claim"}})
    job = rendered.one("Job")
    assert init_names(job["spec"]["template"]) == ["export"]
    assert init_names(rendered.server()) == ["wait-for-models"]
    done = job["spec"]["template"]["spec"]["containers"][0]["command"][1]
    assert done in containers(rendered.server())[0]["command"][2]
    claim = rendered.one("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert not render({"storage": {"kind": "claim", "existingClaim": "mine"}}).of("PersistentVolumeClaim")
    alone = render()
    assert not alone.of("Job")
    assert init_names(alone.server()) == ["export"]


@pytest.mark.parametrize(
    "change",
    [
        {"bundle": "[[models]]\nname = 'chat'\nsource = 'b/c'\ntask = 'generate'"},
        {"commonLabels": {"a": "b"}},
        {"imagePullSecrets": [{"name": "r"}]},
        {"podSecurity": {"runAsUser": 7}},
        {"gateway": {"image": {"tag": "9"}}},
        {"server": {"nodeSelector": {"a": "b"}, "logLevel": "error"}},
        {"export": {"backoffLimit": 9}},
        {"loadtest": {"enabled": True, "workers": 2, "scenario": "seed = 2"}},
        {"server": {"logLevel": "error"}},
    ],
)
def test_a_job_that_is_another_has_another_name(change: dict[str, Any]) -> None:
    """Kubernetes lets no Job change: an upgrade makes a new one, or leaves the one there as it is."""
    values: dict[str, Any] = {"storage": {"kind": "claim"}, "loadtest": {"enabled": True, "workers": 2}}
    before = {job["metadata"]["name"]: job["spec"] for job in render(values).of("Job")}
    after = {job["metadata"]["name"]: job["spec"] for job in render(values | change).of("Job")}
    assert len(before) == len(after) == 3
    assert all(after[name] == before[name] for name in before.keys() & after.keys())
    if "loadtest" in change:
        assert not [name for name in before.keys() & after.keys() if "models" not in name], "workers run again, too"
    assert (before == after) == (change == {"server": {"logLevel": "error"}})


def test_pods_do_not_change_with_the_charts_own_version() -> None:
    """A new version of the chart alone is no reason to load models anew: no pod has it in its labels."""
    assert all("helm.sh/chart" not in pod["metadata"]["labels"] for name, pod in render().pods() if "Pod/" not in name)


def test_renders_no_init_container_when_the_repository_is_there() -> None:
    """A claim or an image that holds a repository is mounted read-only where Triton reads it, and nothing is built."""
    for case in ("offline-pvc", "image-volume"):
        rendered = rendered_case(case)
        assert init_names(rendered.server()) == []
        assert not rendered.of("ConfigMap", "-bundle")
        server = rendered.server()["spec"]["containers"][0]
        mount = next(each for each in server["volumeMounts"] if each["name"] == "models")
        assert mount["mountPath"] == server["command"][1]
        assert mount["readOnly"] is True


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("s3://bucket/a/b", ":s3,env_auth=true,provider=AWS:bucket/a/b"),
        ("gs://bucket/a", ":gcs,env_auth=true,bucket_policy_only=true:bucket/a"),
        ("https://host:8443/a", ':http,url="https://host:8443/a/":'),
    ],
)
def test_urls_become_what_rclone_names_them(url: str, remote: str) -> None:
    """Each kind of url is copied by one container to a folder of its own, which the server reads."""
    rendered = render({"repository": {"source": "url", "url": url}})
    (fetch,) = rendered.server()["spec"]["initContainers"]
    assert fetch["command"][-2] == remote
    assert fetch["command"][-1] == rendered.server()["spec"]["containers"][0]["command"][1]
    assert "envFrom" not in fetch
    keyed = render({"repository": {"source": "url", "url": url}, "fetch": {"credentialsSecret": "keys"}})
    assert keyed.server()["spec"]["initContainers"][0]["envFrom"] == [{"secretRef": {"name": "keys"}}]


def test_tokens_come_from_secrets_and_reach_the_export_alone() -> None:
    """The hub's token is a reference in the export's environment, and in no other container's."""
    rendered = render({"export": {"tokenSecret": {"name": "hub", "key": "hf"}}})
    with_token = [
        (each["name"], variable["valueFrom"]["secretKeyRef"])
        for _, pod in rendered.pods()
        for each in containers(pod)
        for variable in each.get("env", [])
        if variable["name"] == "HF_TOKEN"
    ]
    assert with_token == [("export", {"name": "hub", "key": "hf"})]
    assert "HF_TOKEN" not in str(render().objects)


def test_plans_are_built_after_the_export_with_the_servers_gpus() -> None:
    """One container a model, in order, each with what the server will have."""
    server = rendered_case("everything").server()
    assert init_names(server) == ["fetch-checkpoints", "export", "plan-0", "plan-1"]
    *_, first, second = server["spec"]["initContainers"]
    assert first["resources"] == second["resources"] == server["spec"]["containers"][0]["resources"]
    assert first["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert first["image"] == "fathom-export:0.1.0-plan"
    assert "--optimization-level=0" in first["command"], "0 is a level, not an absence"


def test_gpus_are_asked_for_by_their_name_as_request_and_limit() -> None:
    """A whole GPU or a slice; the image is the one for GPUs, the gateway's the one for CPUs."""
    resources = render({"server": GPU_SERVER}).server()["spec"]["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == 2
    mig = rendered_case("mig")
    assert mig.server()["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == 1
    assert mig.server()["spec"]["containers"][0]["image"] == "fathom-server:0.1.0-gpu"
    gateway = mig.one("Deployment", "-gateway")["spec"]["template"]["spec"]["containers"][0]
    assert gateway["image"] == "fathom-server:0.1.0"
    assert "nvidia" not in str(render().objects)


def test_strategy_is_what_the_values_say() -> None:
    """RollingUpdate never has fewer pods; Recreate needs no room for another."""
    assert render().one("Deployment", "-server")["spec"]["strategy"]["rollingUpdate"] == {
        "maxSurge": 1, "maxUnavailable": 0,
    }  # fmt: skip
    recreate = render({"server": {"strategy": "Recreate"}}).one("Deployment", "-server")
    assert recreate["spec"]["strategy"] == {"type": "Recreate"}


def test_shared_memory_is_a_volume_in_memory() -> None:
    """Shared memory is as large as the value says."""
    pod = render({"server": {"sharedMemory": "3Gi"}}).server()
    volume = next(each for each in pod["spec"]["volumes"] if each["name"] == "shared-memory")
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "3Gi"}
    mounts = {each["name"]: each["mountPath"] for each in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts["shared-memory"] == str(SHARED_MEMORY)


def test_a_group_of_nodes_takes_the_deployments_place() -> None:
    """MultiNode renders a LeaderWorkerSet whose leader alone is served, and whose workers stay while it drains."""
    rendered = rendered_case("multi-node")
    assert not rendered.of("Deployment", "-server")
    group = rendered.one("LeaderWorkerSet")
    assert not rendered.of("Service", group["metadata"]["name"]), "the controller makes a service of this name"
    pods = {name.rpartition("/")[2]: pod for name, pod in rendered.pods() if name.startswith("LeaderWorkerSet")}
    selector = rendered.one("Service", "-headless")["spec"]["selector"].items()
    assert selector <= pods["leader"]["metadata"]["labels"].items()
    assert not selector <= pods["worker"]["metadata"]["labels"].items()
    leader, worker = (pods[each]["spec"]["containers"][0] for each in ("leader", "worker"))
    assert "ray start --head --port=6379" in leader["command"][2]
    assert '"$LWS_LEADER_ADDRESS:6379"' in worker["command"][2]
    stays = worker["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert stays > leader["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pods["worker"]["spec"]["terminationGracePeriodSeconds"] > stays


def test_load_test_pods_share_a_secret() -> None:
    """Leader and workers have the secret under the name that fathom-load reads; alone, a leader needs none."""

    def secrets(values: dict[str, Any]) -> list[Any]:
        jobs = render({"loadtest": {"enabled": True, "workersSecret": {"name": "load"}, **values}}).of("Job")
        containers = [job["spec"]["template"]["spec"]["containers"][0] for job in jobs]
        return [each["valueFrom"] for one in containers for each in one["env"] if each["name"] == VARIABLE]

    assert secrets({"workers": 2}) == [{"secretKeyRef": {"name": "load", "key": "secret"}}] * 2
    assert secrets({"workers": 0}) == []


def test_a_groups_leader_makes_its_own_repository() -> None:
    """fathom-export writes vLLM's repository in the leader, for the workers take their part from Ray."""
    rendered = render(case_values("multi-node") | {"repository": {"source": "export"}})
    pods = {name.rpartition("/")[2]: pod for name, pod in rendered.pods() if name.startswith("LeaderWorkerSet")}
    assert "export" in init_names(pods["leader"])


def test_groups_are_scaled_as_pods_are() -> None:
    """An HPA of groups names the LeaderWorkerSet, whose replicas are not written then."""
    group = case_values("multi-node") | {"autoscaling": {"kind": "hpa"}}
    rendered = render(group)
    target = rendered.one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["kind"] == "LeaderWorkerSet"
    assert target["name"] == rendered.one("LeaderWorkerSet")["metadata"]["name"]
    assert "replicas" not in rendered.one("LeaderWorkerSet")["spec"]


def test_policies_let_in_the_gateway_and_nobody_who_is_not_named() -> None:
    """Triton's ports are for the chart's own pods, metrics for those named; nothing leads outside without downloads."""
    rendered = rendered_case("locked-down")
    server, gateway = rendered.one("NetworkPolicy", "-server"), rendered.one("NetworkPolicy", "-gateway")
    peers = [peer for rule in server["spec"]["ingress"][:1] for peer in rule["from"]]
    components = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in peers]
    assert components == ["gateway", "test", "loadtest"]
    assert [port["port"] for rule in server["spec"]["egress"] for port in rule["ports"]] == [53, 53]
    assert gateway["spec"]["ingress"][0]["from"][0] == {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}
    }
    downloads = rendered_case("everything").one("NetworkPolicy", "-server")["spec"]["egress"]
    assert [port["port"] for port in downloads[-1]["ports"]] == [80, 443]
    assert not rendered_case("cpu").of("NetworkPolicy")


def test_the_gateways_metrics_are_read_only_with_a_key_where_keys_are_asked_for() -> None:
    """With keys and none for Prometheus there is no monitor that could only be refused."""
    monitor = {"serviceMonitor": {"enabled": True}, "gateway": {"keysSecret": "keys"}}
    assert not render(monitor).of("ServiceMonitor", "-gateway")
    keyed = rendered_case("ingress").one("ServiceMonitor", "-gateway")
    assert keyed["spec"]["endpoints"][0]["authorization"]["credentials"] == {"name": "prometheus-key", "key": "key"}
    open_one = render({"serviceMonitor": {"enabled": True}}).one("ServiceMonitor", "-gateway")
    assert "authorization" not in open_one["spec"]["endpoints"][0]


def test_renders_no_test_of_what_the_bundle_lacks() -> None:
    """A bundle without an encoder has no test of embeddings, one without an LLM none of answers."""
    names = {each["metadata"]["name"].rpartition("-")[2] for each in render().of("Pod")}
    assert names == {"ready", "chat", "embed", "gateway"}
    encoder = "[[models]]\nname = 'e'\nsource = 'a/b'\ntask = 'embed'"
    rendered = render({"bundle": encoder, "gateway": {"enabled": False}})
    assert {each["metadata"]["name"].rpartition("-")[2] for each in rendered.of("Pod")} == {"ready", "embed"}
    assert all(each["metadata"]["annotations"]["helm.sh/hook"] == "test" for each in render().of("Pod"))


def test_a_load_test_without_workers_is_one_job() -> None:
    """The leader sends itself; with workers there is a Job of them and a service that they join."""
    alone = render({"loadtest": {"enabled": True}})
    assert len(alone.of("Job")) == 1
    assert not alone.of("Service", "-loadtest")
    assert len(rendered_case("everything").of("Job")) == 2
    assert not render().of("Job")
    other = render({"loadtest": {"enabled": True, "scenario": "seed = 2"}})
    assert other.one("Job")["metadata"]["name"] != alone.one("Job")["metadata"]["name"]


def test_routes_are_rendered_for_what_there_is() -> None:
    """No GRPCRoute without a host name for it, no HTTPRoute without the gateway."""
    routes = {"enabled": True, "parentRefs": [{"name": "g"}]}
    assert not render({"gatewayApi": routes}).of("GRPCRoute")
    only_grpc = {"gatewayApi": routes | {"grpcHostnames": ["g.example"]}, "gateway": {"enabled": False}}
    assert {"GRPCRoute"} == render(only_grpc).kinds() & {"GRPCRoute", "HTTPRoute"}


def test_notes_give_the_next_commands() -> None:
    """They name the release's own services, say how long a stop takes, and warn of a gateway without keys."""
    notes = render().notes
    assert "port-forward service/demo-fathom-server 8001:8001" in notes
    assert "helm test demo --namespace prod" in notes
    assert "set gateway.keysSecret before it is exposed" in notes
    assert "A stop has 108 s for running answers; the kubelet waits 123 s." in notes
    assert "before it is exposed" not in rendered_case("ingress").notes
    assert "job/demo-fathom-models-" in rendered_case("s3").notes


def test_extra_objects_are_filled_in() -> None:
    """Maps and texts alike, with templates in them."""
    rendered = rendered_case("everything")
    assert rendered.one("ConfigMap", "demo-extra")["data"] == {"release": "demo"}
    assert rendered.one("ConfigMap", "demo-text")["data"] == {"release": "demo"}


def test_texts_that_look_like_numbers_stay_texts() -> None:
    """Every free text of the values may be 1e3, yes or *.example, and arrives in the objects as the text that it is."""
    free = [
        value
        for value in leaves(read_values(CHART / "values.yaml"))
        if value.default == "" or value.path[-1] in ("host", "repository", "key")
        if not value.annotation and value.path != ("bundle",)
    ]
    assert len(free) > 20
    for word in ("1e3", "yes", "0x10", "*.example"):
        for case in ("everything", "s3", "ingress", "image-volume", "offline-pvc", "multi-node", "offline-checkpoints"):
            values = case_values(case)
            for value in free:
                level = values
                for step in value.path[:-1]:
                    level = level.setdefault(step, {})
                level[value.path[-1]] = word
            for each in render(values).objects:
                if each["apiVersion"] in CUSTOM_RESOURCES:
                    jsonschema.validate(each, {**CUSTOM_RESOURCES[each["apiVersion"]][each["kind"]]})
                else:
                    assert faults(VERSIONS[-1], each) == []


def test_leader_and_workers_of_a_load_test_begin_when_the_server_is_ready() -> None:
    """Both wait for it first, so that workers do not give their leader up while models are being built."""
    jobs = rendered_case("everything").of("Job")
    waits = [job["spec"]["template"]["spec"]["initContainers"] for job in jobs]
    assert [[each["command"][:2] for each in wait] for wait in waits] == [[["fathom-client", "wait"]]] * 2
