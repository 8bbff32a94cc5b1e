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
STOP_WORDS: Final = "stop_words"
STREAM: Final = "stream"
SAMPLING_PARAMETERS: Final = "sampling_parameters"
EXCLUDE_INPUT_IN_OUTPUT: Final = "exclude_input_in_output"
RETURN_FINISH_REASON: Final = "return_finish_reason"
RETURN_NUM_INPUT_TOKENS: Final = "return_num_input_tokens"
RETURN_NUM_OUTPUT_TOKENS: Final = "return_num_output_tokens"
RETURN_OUTPUT_IDS: Final = "return_output_ids"

# ---- LLM: outputs ----
TEXT_OUTPUT: Final = "text_output"
FINISH_REASON: Final = "finish_reason"
NUM_INPUT_TOKENS: Final = "num_input_tokens"
NUM_OUTPUT_TOKENS: Final = "num_output_tokens"
OUTPUT_IDS: Final = "output_ids"

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
    TensorSpec(MESSAGES, "BYTES", (1,), optional=True),  # JSON: [{"role": …, "content": …}, …]
    TensorSpec(INPUT_IDS, "INT32", (VARIABLE,), optional=True),
    TensorSpec(MAX_TOKENS, "INT32", (1,), optional=True),
    TensorSpec(TEMPERATURE, "FP32", (1,), optional=True),
    TensorSpec(TOP_K, "INT32", (1,), optional=True),
    TensorSpec(TOP_P, "FP32", (1,), optional=True),
    TensorSpec(SEED, "UINT64", (1,), optional=True),
    TensorSpec(REPETITION_PENALTY, "FP32", (1,), optional=True),
    TensorSpec(STOP_WORDS, "BYTES", (VARIABLE,), optional=True),
    TensorSpec(STREAM, "BOOL", (1,), optional=True),
    TensorSpec(SAMPLING_PARAMETERS, "BYTES", (1,), optional=True),  # JSON object, vLLM's form
    TensorSpec(EXCLUDE_INPUT_IN_OUTPUT, "BOOL", (1,), optional=True),
    TensorSpec(RETURN_FINISH_REASON, "BOOL", (1,), optional=True),
    TensorSpec(RETURN_NUM_INPUT_TOKENS, "BOOL", (1,), optional=True),
    TensorSpec(RETURN_NUM_OUTPUT_TOKENS, "BOOL", (1,), optional=True),
    TensorSpec(RETURN_OUTPUT_IDS, "BOOL", (1,), optional=True),
)
"""Inputs of an LLM (``chat`` and ``chat_ensemble``); exactly one of text, messages or ids must be given."""

GENERATE_OUTPUTS: Final = (
    TensorSpec(TEXT_OUTPUT, "BYTES", (1,)),
    TensorSpec(FINISH_REASON, "BYTES", (1,)),
    TensorSpec(NUM_INPUT_TOKENS, "UINT32", (1,)),
    TensorSpec(NUM_OUTPUT_TOKENS, "UINT32", (1,)),
    TensorSpec(OUTPUT_IDS, "INT32", (VARIABLE,)),
)
"""Outputs of an LLM. In a streamed answer, text, output ids and their number are those of this response alone."""

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

FINISH_STOP: Final = "stop"
FINISH_LENGTH: Final = "length"
"""Finish reasons as OpenAI and vLLM spell them."""

DEADLINE_PREFIX: Final = "DEADLINE_EXCEEDED: "
"""Triton's model API has no deadline status: a late request ends as CANCELLED with this prefix, and the client reads
it back as DEADLINE_EXCEEDED."""
