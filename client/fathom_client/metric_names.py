"""Names of an LLM's metrics on Triton's metrics port, and what each is; each carries the label ``model``.

They are vLLM's, which LLM dashboards know, behind ``fathom_`` for ``vllm:``. A histogram is three families, as
Prometheus stores it: ``_bucket`` with the label ``le``, ``_sum`` and ``_count``.
"""

from collections.abc import Mapping
from typing import Final

REQUESTS_RUNNING: Final = "fathom_num_requests_running"
REQUESTS_WAITING: Final = "fathom_num_requests_waiting"
KV_CACHE_USAGE: Final = "fathom_kv_cache_usage_perc"
ENGINE_START: Final = "fathom_engine_start_time_seconds"

PREFIX_CACHE_QUERIES: Final = "fathom_prefix_cache_queries_total"
PREFIX_CACHE_HITS: Final = "fathom_prefix_cache_hits_total"
PROMPT_TOKENS: Final = "fathom_prompt_tokens_total"
GENERATION_TOKENS: Final = "fathom_generation_tokens_total"
PREEMPTIONS: Final = "fathom_num_preemptions_total"
DRAFT_TOKENS: Final = "fathom_spec_decode_num_draft_tokens_total"
ACCEPTED_TOKENS: Final = "fathom_spec_decode_num_accepted_tokens_total"
REQUEST_ENDS: Final = "fathom_request_success_total"
REQUESTS_BY_PRECISION: Final = "fathom_requests_by_precision_total"

CASCADE_ANSWERS: Final = "fathom_cascade_answers_total"
CASCADE_TOKENS: Final = "fathom_cascade_tokens_total"
CASCADE_HELD: Final = "fathom_cascade_held_seconds"

TIME_TO_FIRST_TOKEN: Final = "fathom_time_to_first_token_seconds"  # noqa: S105 (a metric)
INTER_TOKEN_LATENCY: Final = "fathom_inter_token_latency_seconds"  # noqa: S105
END_TO_END_LATENCY: Final = "fathom_e2e_request_latency_seconds"
QUEUE_TIME: Final = "fathom_request_queue_time_seconds"
PREFILL_TIME: Final = "fathom_request_prefill_time_seconds"
DECODE_TIME: Final = "fathom_request_decode_time_seconds"
STEP_TIME: Final = "fathom_engine_step_seconds"

FINISHED_REASON: Final = "finished_reason"
"""Label of ``REQUEST_ENDS``: how an answer ended (stop, length), or why it did not (cancelled, deadline, error)."""
FINISHED_REASONS: Final = ("stop", "length", "cancelled", "deadline", "error")
"""Each is there from the start: of a series that begins with its first event, Prometheus does not see that event."""
PRECISION: Final = "precision"
"""Label of ``REQUESTS_BY_PRECISION``: of the weights that answer; a model of the profile adaptive has two."""
CASCADE_ROLE: Final = "role"
"""Label of ``CASCADE_ANSWERS`` and ``CASCADE_TOKENS``: small or large."""
CASCADE_REASON: Final = "reason"
"""Label of ``CASCADE_ANSWERS``: why the answer is whose it is, as the responses tell."""
CASCADE_KIND: Final = "kind"
"""Label of ``CASCADE_TOKENS``: input or output."""
STEP_KIND: Final = "kind"
"""Label of ``STEP_TIME``: prefill, decode or mixed."""
BUCKET_BOUND: Final = "le"

BUCKET_BOUNDS_S: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
)
"""Upper bounds, in seconds, of the buckets of every histogram of times."""

HELP: Final[Mapping[str, str]] = {
    REQUESTS_RUNNING: "Requests whose answers are being generated",
    REQUESTS_WAITING: "Requests that wait for their turn",
    KV_CACHE_USAGE: "Share of the KV cache's blocks that requests hold, 0 to 1",
    ENGINE_START: "When the engine was loaded, in seconds since the epoch",
    PREFIX_CACHE_QUERIES: "Prompt tokens looked for in the KV cache",
    PREFIX_CACHE_HITS: "Prompt tokens found in the KV cache",
    PROMPT_TOKENS: "Prompt tokens of admitted requests",
    GENERATION_TOKENS: "Tokens generated",
    PREEMPTIONS: "Sequences that gave up their blocks to others and were computed again",
    DRAFT_TOKENS: "Tokens tried ahead",
    ACCEPTED_TOKENS: "Tokens tried ahead that came true",
    REQUEST_ENDS: "Answers that ended, and requests that failed, by reason",
    REQUESTS_BY_PRECISION: "Requests whose answers have begun, by the precision of the weights that compute them",
    TIME_TO_FIRST_TOKEN: "Time from arrival to the first token",
    INTER_TOKEN_LATENCY: "Mean time between an answer's tokens, one value a request",
    END_TO_END_LATENCY: "Time from arrival to the last token",
    QUEUE_TIME: "Time from arrival to admission",
    PREFILL_TIME: "Time from admission to the first token",
    DECODE_TIME: "Time from the first token to the last",
    STEP_TIME: "Time of one step of the model, by kind",
}
"""What each family counts, by its name (a histogram's without its suffix)."""

CASCADE_HELP: Final[Mapping[str, str]] = {
    REQUESTS_RUNNING: HELP[REQUESTS_RUNNING],
    REQUESTS_WAITING: HELP[REQUESTS_WAITING],
    CASCADE_ANSWERS: "Answers of a cascade, by the model that gave them and why",
    CASCADE_TOKENS: "Tokens that a cascade's models read and wrote for it",
    CASCADE_HELD: "Time that a small model's answer waited for the decision",
}
"""The same for the families of a cascade, which has no engine of its own."""
