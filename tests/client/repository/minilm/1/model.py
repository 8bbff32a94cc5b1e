"""A stand-in for an embedding model: eight numbers from the text's hash, one token a character, 512 at most.

A text that begins with ``slow`` takes half a second. A prompt's name is put before the text as it is. A text that is
JSON has orders: ``asked``, a file to which the request's id is added as a line when it is computed; ``delay_s``.
"""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

LIMIT = 512


def follow(orders, request):
    """Do what a text orders."""
    with Path(orders["asked"]).open("a", encoding="utf-8") as file:
        file.write(request.request_id() + "\n")
    time.sleep(orders.get("delay_s", 0))


class TritonPythonModel:
    """Answers batches; each row depends on its own text alone."""

    def execute(self, requests):
        """Return one response a request."""
        return [self._embed(request) for request in requests]

    def _embed(self, request):
        texts = [row[0].decode("utf-8") for row in pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()]
        truncate = pb_utils.get_input_tensor_by_name(request, "truncate")
        prompts = pb_utils.get_input_tensor_by_name(request, "prompt_name")
        if prompts is not None:
            texts = [f"{row[0].decode('utf-8')}: {text}" for row, text in zip(prompts.as_numpy(), texts, strict=True)]
        flags = truncate.as_numpy()[:, 0] if truncate is not None else [False] * len(texts)
        vectors, counts = [], []
        for text, allowed in zip(texts, flags, strict=True):
            if text.startswith("slow"):
                time.sleep(0.5)
            if text.startswith("{"):
                follow(json.loads(text), request)
            if len(text) > LIMIT and not allowed:
                message = f"text_input has {len(text)} tokens; at most {LIMIT} fit"
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
            kept = text[:LIMIT]
            digest = hashlib.sha256(kept.encode("utf-8")).digest()
            vectors.append(np.frombuffer(digest, dtype=np.uint32).astype(np.float32) / np.float32(2**32))
            counts.append([len(kept)])
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("sentence_embedding", np.stack(vectors)),
                pb_utils.Tensor("num_input_tokens", np.array(counts, dtype=np.uint32)),
            ]
        )
