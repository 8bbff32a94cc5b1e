"""Whether callers get what they were promised, and what stands in the way."""

from grafana_foundation_sdk.builders import dashboard

from deploy.observability import objectives
from deploy.observability.panels import (
    MACHINES,
    MODEL,
    MODELS,
    OF_MODEL,
    Query,
    board,
    curves,
    mean_seconds,
    number,
    quantiles,
)
from deploy.observability.rules import FAILED, LATE
from fathom_client import metric_names as engine
from fathom_loadtest.server_side import names as triton
from fathom_server.gateway.edge import metric_names as gateway


def overview() -> dashboard.Dashboard:
    """Whether callers get what they were promised, and what stands in the way."""
    made = board("fathom-overview", "Fathom / Overview", "Whether callers get what they were promised.")
    limit = 1 - objectives.ANSWERED_SHARE
    late = 1 - objectives.FIRST_TOKEN_SHARE
    for panel in (
        number("Servers", "Servers that Prometheus can read.", "none", Query(f"sum({MACHINES.series('up')})", "")),
        number(
            "Ready for the gateway",
            "Share of gateways that find Triton ready with all its models.",
            "percentunit",
            Query(f"avg({MACHINES.series(gateway.TARGET_READY)})", ""),
        ),
        number("Answers", "Of LLMs.", "reqps", Query(MODELS.rate(engine.REQUEST_ENDS), "")),
        number(
            "Failed",
            f"Answers that failed or missed their deadline, of those whose callers stayed; {limit:.2%} may.",
            "percentunit",
            Query(MODELS.share_failed(), ""),
            bad_from=limit,
        ),
        number(
            "First tokens late",
            f"Later than {objectives.FIRST_TOKEN_WITHIN_S:g} s; {late:.0%} may be.",
            "percentunit",
            Query(f"1 - {MODELS.share_within(objectives.FIRST_TOKEN_WITHIN_S, engine.TIME_TO_FIRST_TOKEN)}", ""),
            bad_from=late,
        ),
        number("Tokens generated", "A second.", "none", Query(MODELS.rate(engine.GENERATION_TOKENS), "")),
    ):
        made = made.with_panel(panel)
    made = made.with_row(dashboard.Row("LLMs"))
    for curve in (
        curves(
            "Answers by their end",
            "stop and length are whole answers; cancelled: the caller left; deadline and error count as failed.",
            "reqps",
            Query(MODELS.rate(engine.REQUEST_ENDS, (engine.FINISHED_REASON,)), "{{finished_reason}}"),
            stacked=True,
        ),
        curves(
            "Time to first token",
            "From arrival at the engine.",
            "s",
            *quantiles(MODELS, engine.TIME_TO_FIRST_TOKEN),
        ),
        curves(
            "Time between tokens",
            "Mean of each answer, as AIPerf's inter-token latency.",
            "s",
            *quantiles(MODELS, engine.INTER_TOKEN_LATENCY),
        ),
        curves(
            "Requests",
            "Those that run, and those that wait for their turn.",
            "none",
            Query(MODELS.sum(engine.REQUESTS_RUNNING, MODEL), "running {{model}}"),
            Query(MODELS.sum(engine.REQUESTS_WAITING, MODEL), "waiting {{model}}"),
        ),
        curves(
            "KV cache held",
            "Share of its blocks; the fullest of a model's servers.",
            "percentunit",
            Query(f"max by (model) ({MODELS.series(engine.KV_CACHE_USAGE)})", OF_MODEL),
            most=1,
        ),
        curves(
            "Allowance used up",
            "Share of answers failed and of first tokens late within an hour, as the alerts see it (all servers).",
            "percentunit",
            Query(f"{FAILED}1h", "failed {{job}} {{model}}"),
            Query(f"{LATE}1h", "late {{job}} {{model}}"),
        ),
    ):
        made = made.with_panel(curve)
    made = made.with_row(dashboard.Row("All models of Triton"))
    for curve in (
        curves(
            "Requests answered",
            "Triton's own count, encoders among them.",
            "reqps",
            Query(MODELS.rate(triton.SUCCESS, MODEL), OF_MODEL),
        ),
        curves(
            "Requests failed",
            "Triton's own count, by model and reason.",
            "reqps",
            Query(MODELS.rate(triton.FAILURE, (triton.MODEL, "reason")), "{{model}} {{reason}}"),
        ),
        curves(
            "Mean time of a request",
            "From arrival at Triton to its answer; of streams it says nothing.",
            "s",
            Query(mean_seconds(triton.REQUEST_US), OF_MODEL),
        ),
    ):
        made = made.with_panel(curve)
    made = made.with_row(dashboard.Row("Gateway"))
    for curve in (
        curves(
            "Requests by status",
            "499: the caller hung up.",
            "reqps",
            Query(MACHINES.rate(gateway.REQUESTS, (gateway.STATUS,)), "{{status}}"),
            stacked=True,
        ),
        curves(
            "Turned away",
            "Before a model was asked.",
            "reqps",
            Query(MACHINES.rate(gateway.REJECTED, (gateway.REASON,)), "{{reason}}"),
        ),
        curves(
            "First bytes of streams, p95",
            "From the request's head, by route.",
            "s",
            Query(MACHINES.quantile(0.95, gateway.TIME_TO_FIRST_TOKEN, (gateway.ROUTE,)), "{{route}}"),
        ),
    ):
        made = made.with_panel(curve)
    return made
