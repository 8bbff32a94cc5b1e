"""Triton's adaptor of an LLM's tokenizer: text or messages to token ids, and ids to text."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from fathom_text import TextError, TextTokenizer


class TritonPythonModel:
    """One LLM's tokenizer."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer beside this file."""
        # a text comes alone, and waking threads that have nothing to share takes longer than half of it
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer = TextTokenizer.load(Path(args["model_repository"]) / args["model_version"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, or refuse it without harm to the others."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        inputs = {tensor.name(): tensor.as_numpy().reshape(-1) for tensor in request.inputs()}
        try:
            outputs = self._convert(inputs)
        except TextError as error:
            refusal = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(output_tensors=[], error=refusal)
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in outputs.items() if name in wanted]
        )

    def _convert(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name: ids and their number, or text."""
        if len(inputs) != 1:
            given = ", ".join(sorted(inputs)) or "none"
            raise TextError(f"give exactly one of text_input, messages, input_ids and output_ids; given: {given}")
        name, value = next(iter(inputs.items()))
        if name == "output_ids":
            text = self._tokenizer.decode(self._known_ids(name, value))
            return {"text_output": np.array([text.encode()], dtype=np.object_)}
        if name == "input_ids":
            ids = self._known_ids(name, value)
        elif name == "messages":
            ids = self._tokenizer.encode_messages(_read_messages(_decode(name, value)))
        else:
            ids = self._tokenizer.encode(_decode(name, value))
        if not ids:
            raise TextError(f"{name} is empty; give at least one token")
        return {
            "input_ids": np.array(ids, dtype=np.int32),
            "num_input_tokens": np.array([len(ids)], dtype=np.uint32),
        }

    def _known_ids(self, name: str, value: Any) -> list[int]:
        ids: list[int] = value.tolist()
        size = self._tokenizer.tokenizer.get_vocab_size()
        strange = next((token for token in ids if not 0 <= token < size), None)
        if strange is not None:
            raise TextError(f"{name} holds {strange}; token ids of this model are 0 to {size - 1}")
        return ids


def _decode(name: str, value: Any) -> str:
    if value.size != 1:
        raise TextError(f"{name} holds {value.size} texts; give one")
    try:
        return str(value[0].decode("utf-8"))
    except UnicodeDecodeError as error:
        raise TextError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from error


def _read_messages(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TextError(f"messages is not JSON: {error}") from error
