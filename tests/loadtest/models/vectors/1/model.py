"""An embedding model by the protocol of an encoder's ensemble: a word is a token, and two more frame the text."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy().reshape(-1)
            counts = np.array([[len(text.decode().split()) + 2] for text in texts], dtype=np.uint32)
            vectors = np.ones((len(texts), 8), dtype=np.float32) / np.sqrt(8).astype(np.float32)
            responses.append(
                pb_utils.InferenceResponse(
                    [pb_utils.Tensor("sentence_embedding", vectors), pb_utils.Tensor("num_input_tokens", counts)]
                )
            )
        return responses
