"""What the autoscaler sees, and whether replicas share the work evenly."""

from grafana_foundation_sdk.builders import dashboard

from deploy.observability.panels import INSTANCE, MACHINES, MODEL, MODELS, OF_INSTANCE, OF_MODEL, Query, board, curves
from fathom_client import metric_names as engine
from fathom_loadtest.server_side import names as triton
from fathom_server.gateway.edge import metric_names as gateway


def autoscaling() -> dashboard.Dashboard:
    """What the autoscaler sees, and whether replicas share the work evenly."""
    made = board("fathom-autoscaling", "Fathom / Autoscaling", "What the autoscaler sees.", since="now-6h")
    made = made.with_variable(
        dashboard.TextBoxVariable("target")
        .label("Target")
        .default_value("4")
        .description("autoscaling.target of the chart")
    )
    servers = f"sum({MACHINES.series('up')})"
    for panel in (
        curves(
            "Servers",
            "Those that answer, and those that waitingRequests with this target asks for.",
            "none",
            Query(servers, "there"),
            Query(f"ceil({MODELS.sum(engine.REQUESTS_WAITING)} / $target)", "asked for"),
        ),
        curves(
            "waitingRequests: a server",
            "LLM requests without a slot; the autoscaler's default metric.",
            "none",
            Query(f"{MODELS.sum(engine.REQUESTS_WAITING)} / {servers}", "waiting"),
        ),
        curves(
            "pendingRequests: a server",
            "Triton's own queues, which encoders have.",
            "none",
            Query(f"{MODELS.sum(triton.PENDING)} / {servers}", "pending"),
        ),
        curves(
            "queueTime",
            "Mean time that LLM requests waited: a ratio of sums over all servers.",
            "s",
            Query(MODELS.mean(engine.QUEUE_TIME), "all"),
            Query(MODELS.mean(engine.QUEUE_TIME, MODEL), OF_MODEL),
        ),
        curves(
            "Requests running",
            "By server: whether the work is shared evenly.",
            "none",
            Query(MODELS.sum(engine.REQUESTS_RUNNING, INSTANCE), OF_INSTANCE),
        ),
        curves(
            "Requests waiting",
            "By server: one that queues beside one that is idle is the balancer's doing.",
            "none",
            Query(MODELS.sum(engine.REQUESTS_WAITING, INSTANCE), OF_INSTANCE),
        ),
        curves(
            "Tokens generated",
            "By server, a second.",
            "none",
            Query(MODELS.rate(engine.GENERATION_TOKENS, INSTANCE), OF_INSTANCE),
        ),
        curves(
            "Time since the models were loaded",
            "A new server takes its first request when this begins; a drop is a restart.",
            "s",
            Query(f"time() - min by (instance) ({MODELS.series(engine.ENGINE_START)})", OF_INSTANCE),
        ),
        curves(
            "Refused by the gateway",
            "Errors that callers saw while there were too few servers.",
            "reqps",
            Query(MACHINES.rate(gateway.REQUESTS, (gateway.STATUS,), 'status=~"429|503"'), "{{status}}"),
        ),
    ):
        made = made.with_panel(panel)
    return made
