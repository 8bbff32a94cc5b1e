"""Where an answer's time goes, step by step."""

from grafana_foundation_sdk.builders import dashboard

from deploy.observability.panels import MACHINES, MODEL, MODELS, OF_MODEL, Query, board, curves, mean_seconds, quantiles
from fathom_client import metric_names as engine
from fathom_loadtest.server_side import names as triton


def engine_internals() -> dashboard.Dashboard:
    """Where an answer's time goes, step by step."""
    made = board("fathom-engine", "Fathom / Engine", "Where an answer's time goes.")
    hits = f"{MODELS.rate(engine.PREFIX_CACHE_HITS, MODEL)} / {MODELS.rate(engine.PREFIX_CACHE_QUERIES, MODEL)}"
    came_true = f"{MODELS.rate(engine.ACCEPTED_TOKENS, MODEL)} / {MODELS.rate(engine.DRAFT_TOKENS, MODEL)}"
    steps = MODELS.rate(f"{engine.STEP_TIME}_count", MODEL)
    kind = (engine.STEP_KIND,)
    for panel in (
        curves(
            "Where an answer's time goes",
            "Means: waiting for its turn, from there to the first token, and from there to the last.",
            "s",
            Query(MODELS.mean(engine.QUEUE_TIME), "queue"),
            Query(MODELS.mean(engine.PREFILL_TIME), "prefill"),
            Query(MODELS.mean(engine.DECODE_TIME), "decode"),
            stacked=True,
        ),
        curves("Waiting time", "Until admission.", "s", *quantiles(MODELS, engine.QUEUE_TIME)),
        curves("Whole answers", "From arrival to the last token.", "s", *quantiles(MODELS, engine.END_TO_END_LATENCY)),
        curves(
            "Tokens a second",
            "Prompts read and tokens generated.",
            "none",
            Query(MODELS.rate(engine.PROMPT_TOKENS, MODEL), "prompt {{model}}"),
            Query(MODELS.rate(engine.GENERATION_TOKENS, MODEL), "generated {{model}}"),
        ),
        curves(
            "Steps a second",
            "mixed: a chunk of a prompt beside answers that go on.",
            "none",
            Query(MODELS.rate(f"{engine.STEP_TIME}_count", kind), "{{kind}}"),
            stacked=True,
        ),
        curves(
            "Time of a step, p95",
            "By kind: the model's computing alone.",
            "s",
            Query(MODELS.quantile(0.95, engine.STEP_TIME, kind), "{{kind}}"),
        ),
        curves(
            "Tokens generated a step",
            "How full the batches are, and what was tried ahead and came true.",
            "none",
            Query(f"{MODELS.rate(engine.GENERATION_TOKENS, MODEL)} / {steps}", OF_MODEL),
        ),
        curves(
            "Prompt tokens found in the cache",
            "Of all that were looked for.",
            "percentunit",
            Query(hits, OF_MODEL),
            most=1,
        ),
        curves(
            "Tokens tried ahead that came true",
            "Nothing where nothing is tried ahead.",
            "percentunit",
            Query(came_true, OF_MODEL),
            most=1,
        ),
        curves(
            "KV cache held",
            "Share of its blocks, by server.",
            "percentunit",
            Query(MODELS.series(engine.KV_CACHE_USAGE), "{{model}} {{instance}}"),
            most=1,
        ),
        curves(
            "Preemptions",
            "Sequences a second that gave their blocks up and were computed again.",
            "none",
            Query(MODELS.rate(engine.PREEMPTIONS, MODEL), OF_MODEL),
        ),
        curves(
            "Answers begun by precision",
            "A model of the profile adaptive has two.",
            "reqps",
            Query(
                MODELS.rate(engine.REQUESTS_BY_PRECISION, (triton.MODEL, engine.PRECISION)), "{{model}} {{precision}}"
            ),
        ),
    ):
        made = made.with_panel(panel)
    made = made.with_row(dashboard.Row("Encoders and other batched models"))
    for panel in (
        curves(
            "Requests a batch",
            "How many requests Triton's batcher put together.",
            "none",
            Query(f"{MODELS.rate(triton.INFERENCES, MODEL)} / {MODELS.rate(triton.EXECUTIONS, MODEL)}", OF_MODEL),
        ),
        curves("Mean waiting time", "In Triton's queue.", "s", Query(mean_seconds(triton.QUEUE_US), OF_MODEL)),
        curves(
            "Mean computing time",
            "Of the model itself.",
            "s",
            Query(mean_seconds(triton.COMPUTE_INFER_US), OF_MODEL),
        ),
    ):
        made = made.with_panel(panel)
    made = made.with_row(dashboard.Row("GPUs"))
    for panel in (
        curves(
            "Utilisation",
            "Triton's own gauge, where there is a GPU.",
            "percentunit",
            Query(MACHINES.series(triton.GPU_UTILIZATION), "{{instance}} {{gpu_uuid}}"),
            most=1,
        ),
        curves(
            "Memory",
            "Used and there.",
            "bytes",
            Query(MACHINES.series(triton.GPU_MEMORY_USED), "used {{instance}} {{gpu_uuid}}"),
            Query(MACHINES.series(triton.GPU_MEMORY_TOTAL), "total {{instance}} {{gpu_uuid}}"),
        ),
        curves("Power", "Drawn.", "watt", Query(MACHINES.series(triton.GPU_POWER), "{{instance}} {{gpu_uuid}}")),
    ):
        made = made.with_panel(panel)
    return made
