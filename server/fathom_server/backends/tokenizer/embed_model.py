"""Triton's adaptor of an encoder's tokenizer: texts to padded token ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from fathom_text import TextError, TextTokenizer

_LENGTH_STEP = 16
"""Rows are padded to a multiple of this, so that the encoder's batcher, which joins equal shapes only, finds some."""


class TritonPythonModel:
    """One encoder's tokenizer."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer beside this file and the limits in the model's parameters."""
        folder = Path(args["model_repository"]) / args["model_version"]
        parameters = json.loads(args["model_config"])["parameters"]
        self._max_context = int(parameters["max_context"]["string_value"])
        self._pad_token_id = int(parameters["pad_token_id"]["string_value"])
        self._tokenizer = TextTokenizer.load(folder)
        self._truncating = TextTokenizer.load(folder)
        self._truncating.tokenizer.enable_truncation(self._max_context)  # keeps the special tokens at both ends

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, or refuse it without harm to the others."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        try:
            rows = self._encode(inputs["text_input"].reshape(-1), inputs.get("truncate"))
        except TextError as error:
            refusal = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(output_tensors=[], error=refusal)
        lengths = [len(row) for row in rows]
        padded = min(-(-max(lengths) // _LENGTH_STEP) * _LENGTH_STEP, self._max_context)
        ids = np.full((len(rows), padded), self._pad_token_id, dtype=np.int64)
        mask = np.zeros((len(rows), padded), dtype=np.int64)
        for position, row in enumerate(rows):
            ids[position, : len(row)] = row
            mask[position, : len(row)] = 1
        outputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "num_input_tokens": np.array(lengths, dtype=np.uint32)[:, np.newaxis],
        }
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in outputs.items() if name in wanted]
        )

    def _encode(self, values: Any, truncate: Any) -> list[list[int]]:
        """Ids of each text of a request, none longer than the limit."""
        texts = [_decode(position, value) for position, value in enumerate(values)]
        cuts = [False] * len(texts) if truncate is None else truncate.reshape(-1).tolist()
        rows: list[list[int]] = self._tokenizer.encode_batch(texts)
        for position, row in enumerate(rows):
            if len(row) <= self._max_context:
                continue
            if not cuts[position]:
                raise TextError(
                    f"text {position} has {len(row)} tokens; this model takes at most {self._max_context}: shorten it "
                    "or set truncate"
                )
            rows[position] = self._truncating.encode(texts[position])
        return rows


def _decode(position: int, value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"text {position} is not UTF-8: {error.reason} at byte {error.start}") from error
    if not text.strip():
        raise TextError(f"text {position} is empty; give at least one character that is not a space")
    return text
