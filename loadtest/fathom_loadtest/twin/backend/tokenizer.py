"""The twin of an LLM's tokenizer model: text or messages to token ids, and ids to text."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from fathom_client import protocol
from fathom_loadtest.errors import RefusedRequest
from fathom_loadtest.twin import vocabulary
from fathom_loadtest.twin.backend.tensors import prompt_ids, read_tensors, strings, triton_error


class TritonPythonModel:
    """One LLM's tokenizer."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, or refuse it without harm to the others."""
        return [_answer(request) for request in requests]


def _answer(request: Any) -> Any:
    try:
        outputs = _convert(request)
    except RefusedRequest as refusal:
        return pb_utils.InferenceResponse(output_tensors=[], error=triton_error(refusal))
    wanted = request.requested_output_names()
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, value) for name, value in outputs.items() if name in wanted]
    )


def _convert(request: Any) -> dict[str, Any]:
    tensors = dict(read_tensors(request))
    answered = tensors.pop(protocol.OUTPUT_IDS, None)
    if answered is not None and not tensors:
        return {protocol.TEXT_OUTPUT: strings([vocabulary.decode(answered.tolist()).encode()])}
    if answered is not None:
        raise RefusedRequest("INVALID_ARGUMENT", "output_ids comes alone; send it, or a prompt")
    ids = prompt_ids(tensors)
    return {
        protocol.INPUT_IDS: np.array(ids, dtype=np.int32),
        protocol.NUM_INPUT_TOKENS: np.array([len(ids)], dtype=np.uint32),
    }
