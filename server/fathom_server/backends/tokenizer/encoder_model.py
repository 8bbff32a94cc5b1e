"""Triton's adaptor of an encoder's tokenizer: texts, or pairs of a query and a document, to padded token ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from fathom_backlog import EncoderBacklog
from fathom_text import TextError, TextTokenizer

_LENGTH_STEP = 16
"""Rows are padded to a multiple of this, so that the encoder's batcher, which joins equal shapes only, finds some."""


class TritonPythonModel:
    """One encoder's tokenizer."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer beside this file, and limits, prompts and labels in the model's parameters."""
        folder = Path(args["model_repository"]) / args["model_version"]
        parameters = {
            name: json.loads(value["string_value"])
            for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        self._max_context: int = parameters["max_context"]
        self._pad_token_id: int = parameters["pad_token_id"]
        self._prompts: dict[str, str] = parameters.get("prompts", {})
        self._default_prompt: str = parameters.get("default_prompt", "")
        self._labels = np.array([label.encode() for label in parameters.get("labels", [])], dtype=np.object_)
        self._encoder: str = parameters["encoder"]
        self._backlog = EncoderBacklog(self._encoder, parameters["max_queue"]) if parameters["max_queue"] else None
        self._tokenizer = TextTokenizer.load(folder)
        self._truncating = TextTokenizer.load(folder)
        self._truncating.tokenizer.enable_truncation(self._max_context)  # keeps the special tokens at both ends

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, or refuse it without harm to the others."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Look at Triton's metrics no more."""
        if self._backlog is not None:
            self._backlog.close()

    def _answer(self, request: Any) -> Any:
        inputs = {tensor.name(): tensor.as_numpy().reshape(-1) for tensor in request.inputs()}
        try:
            texts = self._read(inputs)
            rows = self._encode(texts, inputs.get("truncate"))
        except TextError as error:
            return _refusal(str(error), pb_utils.TritonError.INVALID_ARG)
        if self._backlog is not None and not self._backlog.admit():
            return _refusal(f"the queue of {self._encoder} is full; try again later", pb_utils.TritonError.UNAVAILABLE)
        outputs = self._tensors(rows)
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in outputs.items() if name in wanted]
        )

    def _read(self, inputs: dict[str, Any]) -> list[Any]:
        """The texts of a request with their prompts, or its pairs."""
        if "query" in inputs:
            queries, documents = (
                [_decode(name, position, value) for position, value in enumerate(inputs[name])]
                for name in ("query", "document")
            )
            return list(zip(queries, documents, strict=True))
        texts = [_decode("text", position, value) for position, value in enumerate(inputs["text_input"])]
        names = inputs.get("prompt_name")
        if names is None:
            return [self._default_prompt + text for text in texts] if self._default_prompt else texts
        return [self._prompt(name) + text for name, text in zip(names, texts, strict=True)]

    def _prompt(self, raw: bytes) -> str:
        name = raw.decode("utf-8", errors="replace")
        if name not in self._prompts:
            raise TextError(f"prompt_name {name!r} is unknown; this model has {', '.join(sorted(self._prompts))}")
        return self._prompts[name]

    def _encode(self, texts: list[Any], truncate: Any) -> list[tuple[list[int], list[int]]]:
        """Ids and token types of each row of a request, none longer than the limit."""
        cuts = [False] * len(texts) if truncate is None else truncate.tolist()
        rows: list[tuple[list[int], list[int]]] = self._tokenizer.encode_rows(texts)
        for position, (ids, _) in enumerate(rows):
            if len(ids) <= self._max_context:
                continue
            if not cuts[position]:
                what = "pair" if isinstance(texts[position], tuple) else "text"
                raise TextError(
                    f"{what} {position} has {len(ids)} tokens; this model takes at most {self._max_context}: shorten "
                    "it or set truncate"
                )
            rows[position] = self._truncating.encode_rows([texts[position]])[0]
        return rows

    def _tensors(self, rows: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
        lengths = [len(ids) for ids, _ in rows]
        padded = min(-(-max(lengths) // _LENGTH_STEP) * _LENGTH_STEP, self._max_context)
        ids = np.full((len(rows), padded), self._pad_token_id, dtype=np.int64)
        mask = np.zeros((len(rows), padded), dtype=np.int64)
        types = np.zeros((len(rows), padded), dtype=np.int64)
        for position, (row_ids, row_types) in enumerate(rows):
            ids[position, : len(row_ids)] = row_ids
            mask[position, : len(row_ids)] = 1
            types[position, : len(row_ids)] = row_types
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": types,
            "num_input_tokens": np.array(lengths, dtype=np.uint32)[:, np.newaxis],
            "labels": np.tile(self._labels, (len(rows), 1)),
        }


def _refusal(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))


def _decode(name: str, position: int, value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"{name} {position} is not UTF-8: {error.reason} at byte {error.start}") from error
    if not text.strip():
        raise TextError(f"{name} {position} is empty; give at least one character that is not a space")
    return text
