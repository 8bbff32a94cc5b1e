"""A stand-in for a reranker: the share of the query's words that a document has, one token a word, 64 at most.

A document that is JSON has orders: ``asked``, a file to which the request's id is added as a line when it is computed;
``delay_s``.
"""

import json
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

LIMIT = 64


def follow(orders, request):
    """Do what a document orders."""
    with Path(orders["asked"]).open("a", encoding="utf-8") as file:
        file.write(request.request_id() + "\n")
    time.sleep(orders.get("delay_s", 0))


class TritonPythonModel:
    """Answers batches; each row depends on its own pair alone."""

    def execute(self, requests):
        """Return one response a request."""
        return [self._rerank(request) for request in requests]

    def _rerank(self, request):
        columns = {tensor.name(): tensor.as_numpy()[:, 0] for tensor in request.inputs()}
        scores, counts = [], []
        for row, (query, document) in enumerate(zip(columns["query"], columns["document"], strict=True)):
            if document.startswith(b"{"):
                follow(json.loads(document), request)
            asked, found = query.decode("utf-8").split(), document.decode("utf-8").split()
            count = len(asked) + len(found)
            if count > LIMIT and not ("truncate" in columns and columns["truncate"][row]):
                message = f"pair {row} has {count} tokens; at most {LIMIT} fit"
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
            scores.append([sum(word in found for word in asked) / len(asked)])
            counts.append([min(count, LIMIT)])
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("score", np.array(scores, dtype=np.float32)),
                pb_utils.Tensor("num_input_tokens", np.array(counts, dtype=np.uint32)),
            ]
        )
