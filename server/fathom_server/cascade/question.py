"""A request to the cascade, and what is asked of the models behind for it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fathom_client import protocol
from fathom_server.backends.fathom.generate_request import OUTPUT_FLAGS
from fathom_server.cascade.evidence import TensorValues
from fathom_server.cascade.router import Prompt

_COSTS: Final = (protocol.RETURN_NUM_INPUT_TOKENS, protocol.RETURN_NUM_OUTPUT_TOKENS)
_EVIDENCE: Final = (*_COSTS, protocol.RETURN_FINISH_REASON, protocol.RETURN_LOG_PROBS)
_ONE_ANSWER: Final = ("n", "best_of", "temperature", "logprobs", "prompt_logprobs")


@dataclass(frozen=True, slots=True)
class Question:
    """A request: its tensors (``protocol.GENERATE_INPUTS``), parameters, and the seconds it may take."""

    request_id: str
    tensors: TensorValues
    parameters: Mapping[str, Any]
    timeout_s: float

    @property
    def prompt(self) -> Prompt:
        """What it asks."""
        return Prompt.of(self.tensors)

    @property
    def streams(self) -> bool:
        """Whether parts of the answer are wanted as they come."""
        return self._is_set(protocol.STREAM)

    @property
    def sequences(self) -> int:
        """How many answers are wanted, as far as it can be read; the model refuses what is wrong."""
        given = self.tensors.get(protocol.NUM_RETURN_SEQUENCES)
        number = (self._sampling or {}).get("n") if given is None or not given.size else given.reshape(-1)[0]
        try:
            return max(1, min(protocol.MAX_SEQUENCES, int(number))) if number is not None else 1
        except (TypeError, ValueError):
            return 1

    def for_small(self, *, likeliest: bool) -> dict[str, npt.NDArray[Any]]:
        """Tensors for the small model: log-probabilities come with the answer, ``likeliest`` tokens' too."""
        tensors = {**self.tensors, **{name: np.array([True]) for name in _EVIDENCE}}
        if likeliest:
            self._add_sampling(tensors, {"logprobs": protocol.MAX_LOGPROBS})
        return tensors

    def for_samples(self, samples: int, temperature: float) -> dict[str, npt.NDArray[Any]]:
        """Tensors for further answers of the small model, sampled."""
        kept = (protocol.STREAM, protocol.TEMPERATURE, protocol.NUM_RETURN_SEQUENCES, *OUTPUT_FLAGS)
        tensors = {name: value for name, value in self.tensors.items() if name not in kept}
        tensors |= {name: np.array([True]) for name in _COSTS}
        self._add_sampling(tensors, {"n": samples, "temperature": temperature}, without=_ONE_ANSWER)
        return tensors

    def for_large(self) -> dict[str, npt.NDArray[Any]]:
        """Tensors for the large model: the caller's own, and what tells the costs."""
        return {**self.tensors, **{name: np.array([True]) for name in _COSTS}}

    def asked_for(self, tensors: TensorValues) -> dict[str, npt.NDArray[Any]]:
        """Of a response's tensors those that the caller wants, as much of them as it wants."""
        unwanted = {name for flag, names in OUTPUT_FLAGS.items() if not self._is_set(flag) for name in names}
        given = {name: value for name, value in tensors.items() if name not in unwanted}
        if protocol.LOGPROBS in given:
            most = (self._sampling or {}).get("logprobs")
            if most is None and not self._is_set(protocol.RETURN_LOGPROBS):
                del given[protocol.LOGPROBS]
            else:
                given[protocol.LOGPROBS] = _shortened(given[protocol.LOGPROBS], int(most or 0))
        return given

    @property
    def _sampling(self) -> dict[str, Any] | None:
        """The object in ``sampling_parameters``, empty where nothing is given; None for what the model will refuse."""
        if protocol.SAMPLING_PARAMETERS not in self.tensors:
            return {}
        try:
            sampling = json.loads(self.tensors[protocol.SAMPLING_PARAMETERS].reshape(-1)[0])
        except (ValueError, TypeError, IndexError, RecursionError):
            return None
        return sampling if isinstance(sampling, dict) else None

    def _add_sampling(
        self, tensors: dict[str, npt.NDArray[Any]], values: Mapping[str, Any], without: tuple[str, ...] = ()
    ) -> None:
        sampling = self._sampling
        if sampling is None:
            return
        kept = {name: value for name, value in sampling.items() if name not in without}
        tensors[protocol.SAMPLING_PARAMETERS] = np.array([json.dumps({**kept, **values}).encode()], dtype=np.object_)

    def _is_set(self, name: str) -> bool:
        given = self.tensors.get(name)
        return given is not None and given.size > 0 and bool(given.reshape(-1)[0])


def _shortened(listed: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
    """Lists of tokens' log-probabilities with at most so many likeliest others a token."""
    texts = []
    for text in listed:
        tokens = json.loads(bytes(text))
        texts.append(json.dumps([{**token, "top": token.get("top", [])[:most]} for token in tokens]).encode())
    return np.array(texts, dtype=np.object_)
