"""A stand-in for a classifier: the shares of a text's ``+``, ``-`` and other characters, one token a character."""

import numpy as np
import triton_python_backend_utils as pb_utils

LIMIT = 512
LABELS = ["glad", "traurig 悲", "so-so"]


class TritonPythonModel:
    """Answers batches; each row depends on its own text alone."""

    def execute(self, requests):
        """Return one response a request."""
        return [self._classify(request) for request in requests]

    def _classify(self, request):
        columns = {tensor.name(): tensor.as_numpy()[:, 0] for tensor in request.inputs()}
        scores, counts = [], []
        for row, raw in enumerate(columns["text_input"]):
            text = raw.decode("utf-8")
            if len(text) > LIMIT and not ("truncate" in columns and columns["truncate"][row]):
                message = f"text {row} has {len(text)} tokens; at most {LIMIT} fit"
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
            kept = text[:LIMIT]
            glad, sad = kept.count("+") / len(kept), kept.count("-") / len(kept)
            scores.append([glad, sad, 1 - glad - sad])
            counts.append([len(kept)])
        labels = np.array([[label.encode() for label in LABELS]] * len(scores), dtype=np.object_)
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("scores", np.array(scores, dtype=np.float32)),
                pb_utils.Tensor("labels", labels),
                pb_utils.Tensor("num_input_tokens", np.array(counts, dtype=np.uint32)),
            ]
        )
