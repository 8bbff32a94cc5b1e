"""Tensors of Triton's vLLM backend, as its ``auto_complete_config`` has them (vllm_backend, ``src/model.py``).

``image`` and ``embedding_request``, which an LLM of texts does not need, are the backend's own to add.
"""

from typing import Final

from fathom_client import protocol
from fathom_client.protocol import VARIABLE, TensorSpec

INPUTS: Final = (
    TensorSpec(protocol.TEXT_INPUT, "BYTES", (1,)),
    TensorSpec(protocol.STREAM, "BOOL", (1,), optional=True),
    TensorSpec(protocol.SAMPLING_PARAMETERS, "BYTES", (1,), optional=True),
    TensorSpec(protocol.EXCLUDE_INPUT_IN_OUTPUT, "BOOL", (1,), optional=True),
    TensorSpec(protocol.RETURN_FINISH_REASON, "BOOL", (1,), optional=True),
    TensorSpec(protocol.RETURN_CUMULATIVE_LOGPROB, "BOOL", (1,), optional=True),
    TensorSpec(protocol.RETURN_LOGPROBS, "BOOL", (1,), optional=True),
    TensorSpec(protocol.RETURN_NUM_INPUT_TOKENS, "BOOL", (1,), optional=True),
    TensorSpec(protocol.RETURN_NUM_OUTPUT_TOKENS, "BOOL", (1,), optional=True),
)

OUTPUTS: Final = (
    TensorSpec(protocol.TEXT_OUTPUT, "BYTES", (VARIABLE,)),
    TensorSpec(protocol.FINISH_REASON, "BYTES", (VARIABLE,)),
    TensorSpec(protocol.CUMULATIVE_LOGPROB, "FP32", (VARIABLE,)),
    TensorSpec(protocol.LOGPROBS, "BYTES", (VARIABLE,)),
    TensorSpec(protocol.NUM_INPUT_TOKENS, "UINT32", (1,)),
    TensorSpec(protocol.NUM_OUTPUT_TOKENS, "UINT32", (VARIABLE,)),
)

HEALTH_CHECK_PARAMETER: Final = "ENABLE_VLLM_HEALTH_CHECK"
METRICS_PARAMETER: Final = "REPORT_CUSTOM_METRICS"
"""Parameters of the backend's config.pbtxt; "true" turns them on."""

ARGUMENTS_FILE: Final = "model.json"
"""What the backend makes vLLM's ``AsyncEngineArgs`` of, in the model's version folder."""
