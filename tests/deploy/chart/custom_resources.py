"""What the custom resources that the chart makes may hold: the fields it uses, with the types that the CRDs give them.

After the API references of Prometheus Operator (monitoring.coreos.com/v1), KEDA (keda.sh/v1alpha1), the Gateway API
(v1) and LeaderWorkerSet (v1). Pod templates within are checked against Kubernetes's own schemas.
"""

from typing import Any

TEXT = {"type": "string"}
NUMBER = {"type": "integer", "minimum": 0}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}
DURATION = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def fields(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    """An object that has these fields and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required or [],
        "properties": {name.rstrip("_"): schema for name, schema in properties.items()},
    }


def many(item: dict[str, Any], **limits: int) -> dict[str, Any]:
    return {"type": "array", "items": item, **limits}


def resource(api_version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = fields(["name"], name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS)
    return fields(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": api_version},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


SERVICE_MONITOR = fields(
    ["selector", "endpoints"],
    selector=fields(matchLabels=TEXTS),
    endpoints=many(
        fields(
            port=TEXT,
            interval={"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
            authorization=fields(type=TEXT, credentials=fields(["key"], name=TEXT, key=TEXT)),
            scheme={"enum": ["http", "https"]},
            tlsConfig=fields(ca=fields(secret=fields(["key"], name=TEXT, key=TEXT)), serverName=TEXT),
        ),
        minItems=1,
    ),
)

RULE = fields(
    ["expr"],
    record={"type": "string", "pattern": "^[a-zA-Z_:][a-zA-Z0-9_:]*$"},
    alert=TEXT,
    expr=TEXT,
    for_=DURATION,
    labels=TEXTS,
    annotations=TEXTS,
) | {"oneOf": [{"required": ["record"]}, {"required": ["alert"]}]}
PROMETHEUS_RULE = fields(["groups"], groups=many(fields(["name", "rules"], name=TEXT, rules=many(RULE, minItems=1))))

SCALED_OBJECT = fields(
    ["scaleTargetRef", "triggers"],
    scaleTargetRef=fields(["name"], apiVersion=TEXT, kind=TEXT, name=TEXT),
    pollingInterval=NUMBER,
    minReplicaCount=NUMBER,
    maxReplicaCount=NUMBER,
    advanced=fields(
        horizontalPodAutoscalerConfig=fields(
            behavior=fields(scaleDown=fields(stabilizationWindowSeconds={"type": "integer", "maximum": 3600}))
        )
    ),
    triggers=many(
        fields(
            ["type", "metadata"],
            type={"const": "prometheus"},
            metricType={"enum": ["AverageValue", "Value"]},
            metadata=fields(["serverAddress", "query", "threshold"], serverAddress=TEXT, query=TEXT, threshold=TEXT),
        ),
        minItems=1,
    ),
)

PARENTS = many(
    fields(["name"], name=NAME, namespace=NAME, sectionName=NAME, port=NUMBER, group=TEXT, kind=TEXT), minItems=1
)
BACKENDS = many(fields(["name", "port"], name=NAME, port={"type": "integer", "minimum": 1, "maximum": 65535}))
HTTP_ROUTE = fields(
    parentRefs=PARENTS,
    hostnames=many(TEXT, minItems=1, maxItems=16),
    rules=many(fields(backendRefs=BACKENDS, timeouts=fields(request=DURATION, backendRequest=DURATION))),
)
GRPC_ROUTE = fields(
    parentRefs=PARENTS, hostnames=many(TEXT, minItems=1, maxItems=16), rules=many(fields(backendRefs=BACKENDS))
)
BACKEND_TLS_POLICY = fields(
    ["targetRefs", "validation"],
    targetRefs=many(
        fields(["group", "kind", "name"], group=TEXT, kind=TEXT, name=NAME, sectionName=NAME), minItems=1, maxItems=16
    ),
    validation=fields(
        ["hostname"],
        caCertificateRefs=many(fields(["group", "kind", "name"], group=TEXT, kind=TEXT, name=NAME), maxItems=8),
        hostname=NAME,
    ),
)

TEMPLATE = fields(["spec"], metadata=fields(labels=TEXTS, annotations=TEXTS), spec={"type": "object"})
LEADER_WORKER_SET = fields(
    ["leaderWorkerTemplate"],
    replicas=NUMBER,
    rolloutStrategy=fields(
        type={"const": "RollingUpdate"},
        rollingUpdateConfiguration={
            **fields(["maxUnavailable", "maxSurge"], maxUnavailable=NUMBER, maxSurge=NUMBER),
            "not": {"properties": {"maxUnavailable": {"const": 0}, "maxSurge": {"const": 0}}},
        },
    ),
    leaderWorkerTemplate=fields(
        ["workerTemplate"],
        size={"type": "integer", "minimum": 1},
        restartPolicy={"enum": ["Default", "RecreateGroupOnPodRestart", "None"]},
        leaderTemplate=TEMPLATE,
        workerTemplate=TEMPLATE,
    ),
)

CUSTOM_RESOURCES = {
    "monitoring.coreos.com/v1": {
        "ServiceMonitor": resource("monitoring.coreos.com/v1", "ServiceMonitor", SERVICE_MONITOR),
        "PrometheusRule": resource("monitoring.coreos.com/v1", "PrometheusRule", PROMETHEUS_RULE),
    },
    "keda.sh/v1alpha1": {"ScaledObject": resource("keda.sh/v1alpha1", "ScaledObject", SCALED_OBJECT)},
    "gateway.networking.k8s.io/v1": {
        "HTTPRoute": resource("gateway.networking.k8s.io/v1", "HTTPRoute", HTTP_ROUTE),
        "GRPCRoute": resource("gateway.networking.k8s.io/v1", "GRPCRoute", GRPC_ROUTE),
        "BackendTLSPolicy": resource("gateway.networking.k8s.io/v1", "BackendTLSPolicy", BACKEND_TLS_POLICY),
    },
    "leaderworkerset.x-k8s.io/v1": {
        "LeaderWorkerSet": resource("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", LEADER_WORKER_SET)
    },
}
"""Schemas by apiVersion and kind."""
