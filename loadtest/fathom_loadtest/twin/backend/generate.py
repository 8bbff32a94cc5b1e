"""The twin of an LLM, as Triton's Python backend runs it: decoupled, paced, with an LLM's metrics."""

import gc
import itertools
import json
import logging
import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils

from fathom_client import protocol
from fathom_loadtest.content.synthetic import WORDS
from fathom_loadtest.errors import RefusedRequest
from fathom_loadtest.twin import vocabulary
from fathom_loadtest.twin.answer import Answer
from fathom_loadtest.twin.backend.metrics_export import MetricsExport
from fathom_loadtest.twin.backend.tensors import (
    Tensors,
    parsed_json,
    prompt_ids,
    read_parameters,
    read_tensors,
    single,
    strings,
    text,
    triton_error,
)
from fathom_loadtest.twin.metrics import TwinMetrics
from fathom_loadtest.twin.pacer import Pacer
from fathom_loadtest.twin.plan import Wishes, plan_answer
from fathom_loadtest.twin.settings import SETTINGS_PARAMETER, GenerateTwin, model_from_json

logger: Final = logging.getLogger("fathom.twin")

_LANES: Final = 2
_MICROSECONDS: Final = 1e6
_FINAL: Final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_ASKED_BY: Final = {
    protocol.FINISH_REASON: protocol.RETURN_FINISH_REASON,
    protocol.NUM_INPUT_TOKENS: protocol.RETURN_NUM_INPUT_TOKENS,
    protocol.NUM_OUTPUT_TOKENS: protocol.RETURN_NUM_OUTPUT_TOKENS,
    protocol.OUTPUT_IDS: protocol.RETURN_OUTPUT_IDS,
}
_REFUSED_FLAGS: Final = (
    protocol.RETURN_LOGPROBS,
    protocol.RETURN_CUMULATIVE_LOGPROB,
    protocol.RETURN_LOG_PROBS,
    protocol.RETURN_CONTEXT_LOGITS,
    protocol.RETURN_GENERATION_LOGITS,
)
_REFUSED_SAMPLING: Final = (
    *("logprobs", "prompt_logprobs", "structured_outputs"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
)


class TritonPythonModel:
    """One served twin."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the settings and start the clockwork."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        self._name = args["model_name"]
        config = json.loads(args["model_config"])
        content = json.loads(config["parameters"][SETTINGS_PARAMETER]["string_value"])
        settings = model_from_json(content["model"])
        if not isinstance(settings, GenerateTwin):
            raise TypeError(f"{self._name} is no twin of an LLM")
        self._settings = settings
        self._seed: int = content["seed"]
        self._number = itertools.count()
        self._metrics = TwinMetrics()
        self._pacer = Pacer(settings.max_batch, settings.max_queue, self._metrics, _LANES)
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="fathom-twin-reader")
        self._export = MetricsExport(self._metrics, self._pacer.admission, settings.max_batch, self._name)

    def execute(self, requests: list[Any]) -> None:
        """Take requests in, note when they came, and leave reading them to a thread: the next ones wait already."""
        for request in requests:
            arrived_s = time.monotonic()
            self._readers.submit(self._receive, request, request.get_response_sender(), next(self._number), arrived_s)

    def finalize(self) -> None:
        """End what is left, and give back what Triton lent before its process ends."""
        self._readers.shutdown()
        self._pacer.close()
        self._export.close()
        del self._readers, self._pacer, self._export
        gc.collect()

    def _receive(self, request: Any, sender: Any, number: int, arrived_s: float) -> None:
        try:
            self._submit(request, sender, number, arrived_s)
        except RefusedRequest as refusal:
            self._pacer.refuse(TritonSender(sender), refusal)
        except Exception:
            logger.exception("request %s failed", request.request_id())
            fault = RefusedRequest("INTERNAL", f"the request (id {request.request_id()}) cannot be read")
            self._pacer.refuse(TritonSender(sender), fault)

    def _submit(self, request: Any, sender: Any, number: int, arrived_s: float) -> None:
        tensors, parameters = read_tensors(request), read_parameters(request)
        ids = prompt_ids(tensors)
        wishes = _wishes(tensors)
        rng = random.Random(f"{self._seed}/{self._name}/{number}")  # noqa: S311 (repeatable on purpose)
        plan = plan_answer(self._settings, wishes, parameters, rng)
        whole = protocol.STREAM not in tensors or not single(tensors, protocol.STREAM)
        timeout_us = request.timeout()
        self._pacer.submit(
            Answer(
                TritonSender(sender, _Shape.of(request, tensors, ids)),
                plan,
                rng,
                prompt_tokens=len(ids),
                whole=whole,
                arrived_s=arrived_s,
                deadline_s=arrived_s + timeout_us / _MICROSECONDS if timeout_us > 0 else math.inf,
            )
        )


@dataclass(frozen=True, slots=True)
class _Shape:
    """What responses to a request hold: ``names`` of tensors, the number of prompt tokens, and an echo before all."""

    names: frozenset[str]
    prompt_tokens: int
    echo: bytes
    speech: vocabulary.Speech

    @classmethod
    def of(cls, request: Any, tensors: Tensors, ids: list[int]) -> "_Shape":
        asked = {name for name, flag in _ASKED_BY.items() if flag in tensors and single(tensors, flag)}
        echoes = protocol.EXCLUDE_INPUT_IN_OUTPUT in tensors and not single(tensors, protocol.EXCLUDE_INPUT_IN_OUTPUT)
        return cls(
            names=frozenset({protocol.TEXT_OUTPUT, *asked} & set(request.requested_output_names())),
            prompt_tokens=len(ids),
            echo=vocabulary.decode(ids).encode() if echoes else b"",
            speech=vocabulary.Speech(sum(ids) % len(WORDS)),
        )

    def tensors(self, first: int, count: int, finish_reason: str | None) -> list[Any]:
        """Give the output tensors of one response."""
        names, made = self.names, []
        if protocol.TEXT_OUTPUT in names:
            spoken = self.speech.text(first, count)
            made.append(pb_utils.Tensor(protocol.TEXT_OUTPUT, strings([self.echo + spoken if first == 0 else spoken])))
        if protocol.FINISH_REASON in names:
            made.append(pb_utils.Tensor(protocol.FINISH_REASON, strings([(finish_reason or "").encode()])))
        if protocol.NUM_INPUT_TOKENS in names:
            made.append(pb_utils.Tensor(protocol.NUM_INPUT_TOKENS, np.array([self.prompt_tokens], dtype=np.uint32)))
        if protocol.NUM_OUTPUT_TOKENS in names:
            made.append(pb_utils.Tensor(protocol.NUM_OUTPUT_TOKENS, np.array([count], dtype=np.uint32)))
        if protocol.OUTPUT_IDS in names:
            ids = np.array(self.speech.ids(first, count), dtype=np.int32)
            made.append(pb_utils.Tensor(protocol.OUTPUT_IDS, ids))
        return made


class TritonSender:
    """Responses of one request (see ``AnswerSender``)."""

    def __init__(self, sender: Any, shape: _Shape | None = None) -> None:
        self._sender = sender
        self._shape = shape

    def send(self, first: int, count: int, finish_reason: str | None) -> None:
        """See ``AnswerSender.send``."""
        if self._shape is None:
            raise RuntimeError("a refused request has no answer")
        response = pb_utils.InferenceResponse(self._shape.tensors(first, count, finish_reason))
        self._sender.send(response, flags=0 if finish_reason is None else _FINAL)

    def fail(self, refusal: RefusedRequest) -> None:
        """See ``AnswerSender.fail``."""
        response = pb_utils.InferenceResponse(output_tensors=[], error=triton_error(refusal))
        self._sender.send(response, flags=_FINAL)

    def cut(self) -> None:
        """See ``AnswerSender.cut``."""
        self._sender.send(flags=_FINAL)

    def is_cancelled(self) -> bool:
        """See ``AnswerSender.is_cancelled``."""
        return bool(self._sender.is_cancelled())


def _wishes(tensors: Tensors) -> Wishes:
    """What a request says of its answer's length; raises RefusedRequest for what words without a model cannot do."""
    for name in _REFUSED_FLAGS:
        if name in tensors and single(tensors, name):
            raise RefusedRequest("INVALID_ARGUMENT", f"{name} is true; the twin has no model, and so no probabilities")
    sampling: Any = {}
    if protocol.SAMPLING_PARAMETERS in tensors:
        source = text(single(tensors, protocol.SAMPLING_PARAMETERS), protocol.SAMPLING_PARAMETERS)
        sampling = parsed_json(source, protocol.SAMPLING_PARAMETERS)
        if not isinstance(sampling, dict):
            raise RefusedRequest("INVALID_ARGUMENT", "sampling_parameters must be a JSON object")
    refused = next((name for name in _REFUSED_SAMPLING if sampling.get(name) is not None), None)
    if refused is not None:
        raise RefusedRequest("INVALID_ARGUMENT", f"{refused} is given; the twin says words of its own, without a model")
    for name in (protocol.NUM_RETURN_SEQUENCES, protocol.BEAM_WIDTH):
        if name in tensors and int(single(tensors, name)) != 1:
            raise RefusedRequest("INVALID_ARGUMENT", f"{name} is {single(tensors, name)}; the twin gives one answer")
    if sampling.get("n", 1) != 1:
        raise RefusedRequest("INVALID_ARGUMENT", f"n is {sampling['n']!r}; the twin gives one answer")
    max_tokens = _integer(tensors, sampling, protocol.MAX_TOKENS, low=1)
    return Wishes(
        max_tokens=max_tokens,
        min_tokens=_integer(tensors, sampling, protocol.MIN_TOKENS, low=0) or 0,
        ignore_eos=sampling.get("ignore_eos") is True,
    )


def _integer(tensors: Tensors, sampling: Any, name: str, *, low: int) -> int | None:
    value = int(single(tensors, name)) if name in tensors else sampling.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RefusedRequest("INVALID_ARGUMENT", f"{name} is {value!r}; it must be a whole number of at least {low}")
    return value
