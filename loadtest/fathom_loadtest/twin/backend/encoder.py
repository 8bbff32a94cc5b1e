"""The twin of an encoder that embeds, reranks or classifies: batched, one batch at a time an instance."""

import itertools
import json
import random
import time
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from fathom_client import protocol
from fathom_loadtest.errors import RefusedRequest
from fathom_loadtest.twin import vocabulary
from fathom_loadtest.twin.backend.tensors import (
    Tensors,
    read_parameters,
    read_tensors,
    strings,
    text,
    triton_error,
)
from fathom_loadtest.twin.plan import ENCODER_PARAMETERS, LATENCY, distribution, refuse_by_chance, refuse_unknown
from fathom_loadtest.twin.settings import SETTINGS_PARAMETER, EncoderTwin, model_from_json

_FRAME_TOKENS: Final = 2
_DIRECTIONS: Final = 1024


class TritonPythonModel:
    """One served twin."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the settings."""
        self._name = args["model_name"]
        config = json.loads(args["model_config"])
        content = json.loads(config["parameters"][SETTINGS_PARAMETER]["string_value"])
        settings = model_from_json(content["model"])
        if not isinstance(settings, EncoderTwin):
            raise TypeError(f"{self._name} is no twin of an encoder")
        self._settings = settings
        self._seed = f"{content['seed']}/{self._name}/{args['model_instance_name']}"
        self._number = itertools.count()
        shape = (_DIRECTIONS, settings.dimensions)
        self._directions = np.random.default_rng(content["seed"]).standard_normal(shape, dtype=np.float32)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch when the time of its slowest request is over."""
        begin_s = time.monotonic()
        latency_ms = 0.0
        answers: list[tuple[Any, dict[str, Any] | RefusedRequest]] = []
        for request in requests:
            rng = random.Random(f"{self._seed}/{next(self._number)}")  # noqa: S311 (repeatable on purpose)
            try:
                parameters = read_parameters(request)
                refuse_unknown(parameters, ENCODER_PARAMETERS)
                refuse_by_chance(self._settings.fault_rates().draw_error(rng), parameters)
                outputs = self._outputs(read_tensors(request))
                own_ms = distribution(parameters, LATENCY, self._settings.latency_ms).draw(rng)
            except RefusedRequest as refusal:
                answers.append((request, refusal))
                continue
            latency_ms = max(latency_ms, own_ms)
            answers.append((request, outputs))
        time.sleep(max(0.0, begin_s + latency_ms / 1e3 - time.monotonic()))
        return [_response(request, outcome) for request, outcome in answers]

    def _outputs(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        columns = (protocol.QUERY, protocol.DOCUMENT) if self._settings.task == "rerank" else (protocol.TEXT_INPUT,)
        rows = list(zip(*([_text(value, name) for value in tensors[name]] for name in columns), strict=True))
        counts = [_FRAME_TOKENS + sum(len(vocabulary.encode(each)) for each in row) for row in rows]
        keys = np.array([zlib.crc32("\0".join(row).encode()) for row in rows], dtype=np.uint32)
        outputs = {protocol.NUM_INPUT_TOKENS: np.array(counts, dtype=np.uint32)[:, np.newaxis]}
        match self._settings.task:
            case "embed":
                return {**outputs, protocol.SENTENCE_EMBEDDING: self._vectors(keys)}
            case "rerank":
                return {**outputs, protocol.SCORE: (keys / 2**32).astype(np.float32)[:, np.newaxis]}
            case "classify":
                names = [label.encode() for label in self._settings.labels]
                chances = keys[:, np.newaxis] / 2**32 + np.arange(1, len(names) + 1)
                return {
                    **outputs,
                    protocol.SCORES: (chances / chances.sum(axis=1, keepdims=True)).astype(np.float32),
                    protocol.LABELS: strings(names * len(rows)).reshape(len(rows), -1),
                }

    def _vectors(self, keys: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
        """Unit vectors, each the sum of two directions that the text's key chooses."""
        sums = self._directions[keys % _DIRECTIONS] + self._directions[keys // _DIRECTIONS % _DIRECTIONS]
        unit: npt.NDArray[np.float32] = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return unit


def _text(value: bytes, name: str) -> str:
    decoded = text(value, name)
    if not decoded.strip():
        raise RefusedRequest("INVALID_ARGUMENT", f"{name} is empty; give at least one character that is not a space")
    return decoded


def _response(request: Any, outcome: dict[str, Any] | RefusedRequest) -> Any:
    if isinstance(outcome, RefusedRequest):
        return pb_utils.InferenceResponse(output_tensors=[], error=triton_error(outcome))
    wanted = request.requested_output_names()
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, value) for name, value in outcome.items() if name in wanted]
    )
