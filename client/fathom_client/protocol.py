"""The wire protocol: every tensor, parameter and error word that client, server and export agree on.

Names follow TensorRT-LLM's ensemble and Triton's vLLM backend, shapes the latter's (no batch dimension on the LLM).
"""

from dataclasses import dataclass
from typing import Final

VARIABLE: Final = -1
"""A dimension whose size each request chooses."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a served model.

    ``datatype`` is a KServe v2 datatype (``BYTES``, ``INT32``, …); ``dims`` leaves out the batch dimension of models
    that batch. An optional input may be left out of a request.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False


# ---- LLM: inputs ----
TEXT_INPUT: Final = "text_input"
MESSAGES: Final = "messages"
INPUT_IDS: Final = "input_ids"
MAX_TOKENS: Final = "max_tokens"
TEMPERATURE: Final = "temperature"
TOP_K: Final = "top_k"
TOP_P: Final = "top_p"
SEED: Final = "seed"
REPETITION_PENALTY: Final = "repetition_penalty"
MIN_TOKENS: Final = "min_tokens"
MIN_P: Final = "min_p"
PRESENCE_PENALTY: Final = "presence_penalty"
FREQUENCY_PENALTY: Final = "frequency_penalty"
STOP_WORDS: Final = "stop_words"
BAD_WORDS: Final = "bad_words"
END_ID: Final = "end_id"
PAD_ID: Final = "pad_id"
NUM_RETURN_SEQUENCES: Final = "num_return_sequences"
BEAM_WIDTH: Final = "beam_width"
PRIORITY: Final = "priority"
STREAM: Final = "stream"
SAMPLING_PARAMETERS: Final = "sampling_parameters"
EXCLUDE_INPUT_IN_OUTPUT: Final = "exclude_input_in_output"
RETURN_FINISH_REASON: Final = "return_finish_reason"
RETURN_NUM_INPUT_TOKENS: Final = "return_num_input_tokens"
RETURN_NUM_OUTPUT_TOKENS: Final = "return_num_output_tokens"
RETURN_OUTPUT_IDS: Final = "return_output_ids"
RETURN_LOGPROBS: Final = "return_logprobs"
RETURN_CUMULATIVE_LOGPROB: Final = "return_cumulative_logprob"
RETURN_LOG_PROBS: Final = "return_log_probs"
RETURN_CONTEXT_LOGITS: Final = "return_context_logits"
RETURN_GENERATION_LOGITS: Final = "return_generation_logits"

# ---- LLM: outputs ----
TEXT_OUTPUT: Final = "text_output"
FINISH_REASON: Final = "finish_reason"
NUM_INPUT_TOKENS: Final = "num_input_tokens"
NUM_OUTPUT_TOKENS: Final = "num_output_tokens"
OUTPUT_IDS: Final = "output_ids"
SEQUENCE_INDEX: Final = "sequence_index"
LOGPROBS: Final = "logprobs"
PROMPT_LOGPROBS: Final = "prompt_logprobs"
CUMULATIVE_LOGPROB: Final = "cumulative_logprob"
CUM_LOG_PROBS: Final = "cum_log_probs"
OUTPUT_LOG_PROBS: Final = "output_log_probs"
CASCADE: Final = "cascade"

# ---- encoders ----
ATTENTION_MASK: Final = "attention_mask"
TRUNCATE: Final = "truncate"
SENTENCE_EMBEDDING: Final = "sentence_embedding"
TOKEN_TYPE_IDS: Final = "token_type_ids"  # noqa: S105 # a tensor
PROMPT_NAME: Final = "prompt_name"
QUERY: Final = "query"
DOCUMENT: Final = "document"
SCORE: Final = "score"
SCORES: Final = "scores"
LABELS: Final = "labels"

GENERATE_INPUTS: Final = (
    TensorSpec(TEXT_INPUT, "BYTES", (1,), optional=True),
    TensorSpec(MESSAGES, "BYTES", (1,), optional=True),  # JSON: [{"role": …, "content": …}, …], or see below
    TensorSpec(INPUT_IDS, "INT32", (VARIABLE,), optional=True),
    TensorSpec(MAX_TOKENS, "INT32", (1,), optional=True),
    TensorSpec(TEMPERATURE, "FP32", (1,), optional=True),
    TensorSpec(TOP_K, "INT32", (1,), optional=True),
    TensorSpec(TOP_P, "FP32", (1,), optional=True),
    TensorSpec(SEED, "UINT64", (1,), optional=True),
    TensorSpec(REPETITION_PENALTY, "FP32", (1,), optional=True),
    TensorSpec(MIN_TOKENS, "INT32", (1,), optional=True),
    TensorSpec(MIN_P, "FP32", (1,), optional=True),
    TensorSpec(PRESENCE_PENALTY, "FP32", (1,), optional=True),
    TensorSpec(FREQUENCY_PENALTY, "FP32", (1,), optional=True),
    TensorSpec(STOP_WORDS, "BYTES", (VARIABLE,), optional=True),
    TensorSpec(BAD_WORDS, "BYTES", (VARIABLE,), optional=True),
    TensorSpec(END_ID, "INT32", (1,), optional=True),  # one more token that ends the answer; -1: none does
    TensorSpec(PAD_ID, "INT32", (1,), optional=True),  # TensorRT-LLM's; nothing is padded here
    TensorSpec(NUM_RETURN_SEQUENCES, "INT32", (1,), optional=True),
    TensorSpec(BEAM_WIDTH, "INT32", (1,), optional=True),  # TensorRT-LLM's; only 1
    TensorSpec(PRIORITY, "INT32", (1,), optional=True),  # the lower goes first; 0 without
    TensorSpec(STREAM, "BOOL", (1,), optional=True),
    TensorSpec(SAMPLING_PARAMETERS, "BYTES", (1,), optional=True),  # JSON object, vLLM's form
    TensorSpec(EXCLUDE_INPUT_IN_OUTPUT, "BOOL", (1,), optional=True),
    TensorSpec(RETURN_FINISH_REASON, "BOOL", (1,), optional=True),
    TensorSpec(RETURN_NUM_INPUT_TOKENS, "BOOL", (1,), optional=True),
    TensorSpec(RETURN_NUM_OUTPUT_TOKENS, "BOOL", (1,), optional=True),
    TensorSpec(RETURN_OUTPUT_IDS, "BOOL", (1,), optional=True),
    TensorSpec(RETURN_LOGPROBS, "BOOL", (1,), optional=True),
    TensorSpec(RETURN_CUMULATIVE_LOGPROB, "BOOL", (1,), optional=True),
    TensorSpec(RETURN_LOG_PROBS, "BOOL", (1,), optional=True),
    TensorSpec(RETURN_CONTEXT_LOGITS, "BOOL", (1,), optional=True),  # TensorRT-LLM's; only false
    TensorSpec(RETURN_GENERATION_LOGITS, "BOOL", (1,), optional=True),  # TensorRT-LLM's; only false
)
"""Inputs of an LLM (``chat`` and ``chat_ensemble``); exactly one of text, messages or ids must be given.

``messages`` may also be ``{"messages": […], "tools": […], "chat_template_kwargs": {…}}``, the others for the template.
``priority`` is a tensor because Triton keeps KServe's request parameter of that name to itself."""

GENERATE_OUTPUTS: Final = (
    TensorSpec(TEXT_OUTPUT, "BYTES", (VARIABLE,)),
    TensorSpec(FINISH_REASON, "BYTES", (VARIABLE,)),
    TensorSpec(NUM_INPUT_TOKENS, "UINT32", (1,)),
    TensorSpec(NUM_OUTPUT_TOKENS, "UINT32", (VARIABLE,)),
    TensorSpec(OUTPUT_IDS, "INT32", (VARIABLE,)),
    TensorSpec(SEQUENCE_INDEX, "INT32", (VARIABLE,)),
    TensorSpec(LOGPROBS, "BYTES", (VARIABLE,)),  # JSON: see below
    TensorSpec(PROMPT_LOGPROBS, "BYTES", (1,)),  # JSON of the same form; the first token's logprob is null
    TensorSpec(CUMULATIVE_LOGPROB, "FP32", (VARIABLE,)),
    TensorSpec(CUM_LOG_PROBS, "FP32", (VARIABLE,)),
    TensorSpec(OUTPUT_LOG_PROBS, "FP32", (VARIABLE,)),
)
"""Outputs of an LLM, those that a request asks for.

A streamed response belongs to one sequence of the request: one element, or for output ids and log-probabilities one a
token; text, ids, log-probabilities and number of tokens are those of this response alone, the cumulative
log-probability that of the sequence so far. An answer that is not streamed has an element a sequence; ids and
``output_log_probs`` are laid end to end, ``num_output_tokens`` says where each sequence's end. ``sequence_index`` comes
where there are several. ``cumulative_logprob`` (vLLM's) and ``cum_log_probs`` (TensorRT-LLM's) are the same.

``logprobs`` is JSON, ``[{"token_id": …, "token": …, "logprob": …, "top": [{…}, …]}, …]``; ``token`` is the token's
text, with its ``bytes`` in hexadecimal where they are no whole characters."""

CASCADE_OUTPUTS: Final = (*GENERATE_OUTPUTS, TensorSpec(CASCADE, "BYTES", (1,)))
"""Outputs of a cascade (``engine = "cascade"``): those of an LLM, and with the last response ``cascade``, JSON that
says which model answered, why, and what tokens either took."""

# ---- limits that client and server check alike ----
MAX_SEQUENCES: Final = 128
MAX_LOGPROBS: Final = 20
MAX_TEMPERATURE: Final = 100.0
MAX_PENALTY: Final = 2.0
MAX_LOGIT_BIAS: Final = 100.0

LOWEST_LOGPROB: Final = -9999.0
"""Stands for the logarithm of 0, which JSON has not, as in OpenAI's API."""

TOKENIZER_SUFFIX: Final = "_tokenizer"
"""The tokenizer model of an LLM or encoder has its name with this behind it."""

TOKENIZE_INPUTS: Final = (
    TensorSpec(TEXT_INPUT, "BYTES", (1,), optional=True),
    TensorSpec(MESSAGES, "BYTES", (1,), optional=True),
    TensorSpec(INPUT_IDS, "INT32", (VARIABLE,), optional=True),
    TensorSpec(OUTPUT_IDS, "INT32", (VARIABLE,), optional=True),
)
"""Inputs of an LLM's tokenizer model: text or messages to turn into ids, ids to hand on as they are (so that the
ensemble takes all that the engine takes), or output ids to turn into text."""

TOKENIZE_OUTPUTS: Final = (
    TensorSpec(INPUT_IDS, "INT32", (VARIABLE,)),
    TensorSpec(NUM_INPUT_TOKENS, "UINT32", (1,)),
    TensorSpec(TEXT_OUTPUT, "BYTES", (1,)),
)

EMBED_INPUTS: Final = (
    TensorSpec(TEXT_INPUT, "BYTES", (1,)),
    TensorSpec(TRUNCATE, "BOOL", (1,), optional=True),
    TensorSpec(PROMPT_NAME, "BYTES", (1,), optional=True),
)
"""Inputs of an embedding ensemble (batched). Without ``truncate`` a text that is too long is refused. ``prompt_name``
chooses the prompt before the text: ``query`` and ``document`` are known to every model, and the model's own names."""

EMBED_OUTPUTS: Final = (
    TensorSpec(SENTENCE_EMBEDDING, "FP32", (VARIABLE,)),
    TensorSpec(NUM_INPUT_TOKENS, "UINT32", (1,)),
)
"""Outputs of an embedding ensemble (batched): the vector, and how many tokens the text had after truncation."""

RERANK_INPUTS: Final = (
    TensorSpec(QUERY, "BYTES", (1,)),
    TensorSpec(DOCUMENT, "BYTES", (1,)),
    TensorSpec(TRUNCATE, "BOOL", (1,), optional=True),
)
"""Inputs of a reranking ensemble (batched): each row is a pair; ``truncate`` cuts the longer of its two texts first."""

RERANK_OUTPUTS: Final = (
    TensorSpec(SCORE, "FP32", (1,)),
    TensorSpec(NUM_INPUT_TOKENS, "UINT32", (1,)),
)
"""Outputs of a reranking ensemble (batched): how well the document answers the query, in the model's own scale."""

CLASSIFY_INPUTS: Final = (
    TensorSpec(TEXT_INPUT, "BYTES", (1,)),
    TensorSpec(TRUNCATE, "BOOL", (1,), optional=True),
)
"""Inputs of a classifying ensemble (batched)."""

CLASSIFY_OUTPUTS: Final = (
    TensorSpec(SCORES, "FP32", (VARIABLE,)),
    TensorSpec(LABELS, "BYTES", (VARIABLE,)),
    TensorSpec(NUM_INPUT_TOKENS, "UINT32", (1,)),
)
"""Outputs of a classifying ensemble (batched): a probability for each label (of one label a text they add up to 1), and
the labels' names in the same order, the same for every text."""

ENCODER_INPUTS: Final = (
    TensorSpec(INPUT_IDS, "INT64", (VARIABLE,)),
    TensorSpec(ATTENTION_MASK, "INT64", (VARIABLE,)),
)
"""Inputs of an encoder, and with ``num_input_tokens`` the outputs of its tokenizer model (batched). Encoders of
pairs may take ``token_type_ids`` of the same form besides."""

# ---- KServe request parameters ----
TIMEOUT_PARAMETER: Final = "timeout"
"""Microseconds (int64) from arrival in which the whole answer must be given; Triton hands it on to the model."""

PRECISION_PARAMETER: Final = "precision"
"""The weights that are to answer (string), where a model has them in two precisions (profile adaptive)."""

CLIENT_PARAMETER: Final = "client"
"""On whose behalf a request comes (string): within a priority, clients take turns by the tokens they were given."""

TASK_PARAMETER: Final = "task"
"""What kind of request it is (string), for the rules of a cascade's router."""

TOOL_CALL_FORMAT_PARAMETER: Final = "tool_call_format"
"""Parameter of an LLM's config.pbtxt: how its chat template writes calls of tools; absent where it knows none."""

FINISH_STOP: Final = "stop"
FINISH_LENGTH: Final = "length"
"""Finish reasons as OpenAI and vLLM spell them."""

REFUSE_AFTER_S: Final = 0.002
"""Seconds after its arrival before which a model refuses no streamed request.

Triton 2.51 notes a streamed request as under way after it has handed it to the model, if its caller asked for errors as
statuses (``triton_grpc_error``). One that has been refused by then leaves a note of something that is gone, which ends
the whole server later, within some hundred refusals.
"""

STATUS_PREFIXES: Final = tuple(
    f"{status}: "
    for status in ("ALREADY_EXISTS", "CANCELLED", "INTERNAL", "NOT_FOUND", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN")
)
"""How an LLM's error message begins where its gRPC status is not INVALID_ARGUMENT.

A stream's error message has no code. Triton can be asked to end the call with a status instead (``triton_grpc_error``),
but Triton 2.51 then uses a state that it has freed, and one in some hundred refusals ends the whole server."""

DEADLINE_PREFIX: Final = "DEADLINE_EXCEEDED: "
"""Triton's model API has no deadline status: a late request ends as CANCELLED with this prefix, and the client reads
it back as DEADLINE_EXCEEDED."""
