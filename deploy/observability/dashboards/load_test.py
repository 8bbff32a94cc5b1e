"""The server's side of a load test while it runs."""

from grafana_foundation_sdk.builders import dashboard

from deploy.observability.expressions import FAILURES
from deploy.observability.panels import MACHINES, MODEL, MODELS, OF_MODEL, Query, board, curves, quantiles
from fathom_client import metric_names as engine
from fathom_loadtest.server_side import names as triton
from fathom_server.gateway.edge import metric_names as gateway


def load_test() -> dashboard.Dashboard:
    """The server's side of a load test while it runs."""
    made = board(
        "fathom-loadtest",
        "Fathom / Load test",
        "The server's side of a run of fathom-load; its report has the exact figures, from the senders' own clocks.",
        refresh="5s",
        since="now-15m",
    )
    begun = f"{engine.TIME_TO_FIRST_TOKEN}_count"
    for panel in (
        curves(
            "Concurrency",
            "Requests in the engine: its share of the users, or of what an open loop has sent.",
            "none",
            Query(MODELS.sum(engine.REQUESTS_RUNNING), "running"),
            Query(MODELS.sum(engine.REQUESTS_WAITING), "waiting"),
            stacked=True,
        ),
        curves(
            "Throughput",
            "Answers begun, and answers that ended whole. Where the first runs ahead, the load is too much.",
            "reqps",
            Query(MODELS.rate(begun), "begun"),
            Query(MODELS.rate(engine.REQUEST_ENDS, (), 'finished_reason=~"stop|length"'), "whole"),
            Query(MODELS.rate(engine.REQUEST_ENDS, (), FAILURES), "failed"),
        ),
        curves(
            "Output token throughput",
            "Tokens a second, of all users together and of each that runs.",
            "none",
            Query(MODELS.rate(engine.GENERATION_TOKENS), "all"),
            Query(f"{MODELS.rate(engine.GENERATION_TOKENS)} / {MODELS.sum(engine.REQUESTS_RUNNING)}", "a request"),
        ),
        curves("Time to first token", "Without the network.", "s", *quantiles(MODELS, engine.TIME_TO_FIRST_TOKEN)),
        curves("Inter-token latency", "One value a request.", "s", *quantiles(MODELS, engine.INTER_TOKEN_LATENCY)),
        curves("Request latency", "Without the network.", "s", *quantiles(MODELS, engine.END_TO_END_LATENCY)),
        curves(
            "Share of the time that is waiting",
            "Of an answer's time in the engine.",
            "percentunit",
            Query(
                f"{MODELS.rate(f'{engine.QUEUE_TIME}_sum')} / {MODELS.rate(f'{engine.END_TO_END_LATENCY}_sum')}",
                "queue",
            ),
        ),
        curves(
            "Encoders: texts a second",
            "Inferences, batches taken apart.",
            "none",
            Query(MODELS.rate(triton.INFERENCES, MODEL), OF_MODEL),
        ),
        curves(
            "Requests failed",
            "Triton's own count: refusals of a full queue are among them.",
            "reqps",
            Query(MODELS.rate(triton.FAILURE, (triton.MODEL, "reason")), "{{model}} {{reason}}"),
        ),
        curves(
            "Gateway: requests",
            "In flight, where the load goes through it.",
            "none",
            Query(MACHINES.sum(gateway.REQUESTS_IN_FLIGHT, (gateway.ROUTE,)), "{{route}}"),
        ),
        curves(
            "Gateway: duration, p95",
            "Head to end of the answer.",
            "s",
            Query(MACHINES.quantile(0.95, gateway.REQUEST_DURATION, (gateway.ROUTE,)), "{{route}}"),
        ),
        curves(
            "Gateway: processor and tokens",
            "Processors busy, and tokens that passed through, in thousands a second.",
            "none",
            Query(MACHINES.rate("process_cpu_seconds_total"), "processors"),
            Query(f"{MACHINES.rate(gateway.INPUT_TOKENS)} / 1000", "read"),
            Query(f"{MACHINES.rate(gateway.OUTPUT_TOKENS)} / 1000", "generated"),
        ),
    ):
        made = made.with_panel(panel)
    return made
