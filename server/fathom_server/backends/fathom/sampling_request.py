"""A request's sampling: TensorRT-LLM's tensors and vLLM's JSON, one or the other for each parameter."""

import json
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fathom_client import protocol
from fathom_server.backends.fathom.tensor_values import Tensors, flag, parsed_json, single, text, texts
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.structured_output import STRUCTURE_KINDS, StructuredOutput, StructureKind
from fathom_server.errors import InvalidRequestError

_INT32: Final = (-(2**31), 2**31 - 1)
_NO_END: Final = -1

_TENSORS: Final[Mapping[str, tuple[str, Callable[[Any], int | float]]]] = {
    protocol.MAX_TOKENS: ("max_tokens", int),
    protocol.MIN_TOKENS: ("min_tokens", int),
    protocol.TEMPERATURE: ("temperature", float),
    protocol.TOP_K: ("top_k", int),
    protocol.TOP_P: ("top_p", float),
    protocol.MIN_P: ("min_p", float),
    protocol.SEED: ("seed", int),
    protocol.REPETITION_PENALTY: ("repetition_penalty", float),
    protocol.PRESENCE_PENALTY: ("presence_penalty", float),
    protocol.FREQUENCY_PENALTY: ("frequency_penalty", float),
    protocol.NUM_RETURN_SEQUENCES: ("n", int),
    protocol.PRIORITY: ("priority", int),
}
_TEXT_TENSORS: Final = {protocol.STOP_WORDS: "stop", protocol.BAD_WORDS: "bad_words"}
_LOGPROB_FLAGS: Final = (protocol.RETURN_LOGPROBS, protocol.RETURN_CUMULATIVE_LOGPROB, protocol.RETURN_LOG_PROBS)
_REFUSED_FLAGS: Final = {
    protocol.RETURN_CONTEXT_LOGITS: "logits are not given; prompt_logprobs in sampling_parameters gives the prompt's "
    "log-probabilities",
    protocol.RETURN_GENERATION_LOGITS: "logits are not given; logprobs in sampling_parameters gives log-probabilities",
}


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """How a request wants to be sampled, its priority (the lower goes first), and whether it wants logprobs listed."""

    sampling: SamplingParameters
    priority: int
    lists_logprobs: bool


def read_sampling(tensors: Tensors) -> SamplingRequest:
    """Read what a request's tensors say about sampling; raises InvalidRequestError."""
    _refuse(tensors)
    values: dict[str, Any] = {
        name: read(single(tensors, tensor)) for tensor, (name, read) in _TENSORS.items() if tensor in tensors
    }
    values |= {name: texts(tensors, tensor) for tensor, name in _TEXT_TENSORS.items() if tensor in tensors}
    if protocol.SAMPLING_PARAMETERS in tensors:
        for name, value in _from_json(text(tensors, protocol.SAMPLING_PARAMETERS)).items():
            if name in values:
                raise InvalidRequestError(f"{name} is given twice, as a tensor and in sampling_parameters; send one")
            values[name] = value
    if protocol.END_ID in tensors:
        _end_at(int(single(tensors, protocol.END_ID)), values)
    lists_logprobs = "logprobs" in values or flag(tensors, protocol.RETURN_LOGPROBS)
    if any(flag(tensors, name) for name in _LOGPROB_FLAGS):
        values.setdefault("logprobs", 0)
    priority = values.pop("priority", 0)
    if not _INT32[0] <= priority <= _INT32[1]:
        raise InvalidRequestError(f"priority is {priority}; it must be between {_INT32[0]} and {_INT32[1]}")
    return SamplingRequest(SamplingParameters(**values), priority, lists_logprobs)


def _refuse(tensors: Tensors) -> None:
    """Refuse what TensorRT-LLM's ensemble takes and this engine cannot do."""
    for name, reason in _REFUSED_FLAGS.items():
        if flag(tensors, name):
            raise InvalidRequestError(f"{name} is true; {reason}")
    if protocol.BEAM_WIDTH in tensors and (width := int(single(tensors, protocol.BEAM_WIDTH))) != 1:
        raise InvalidRequestError(
            f"beam_width is {width}; there is no beam search, only 1 is taken: for several answers set "
            "num_return_sequences, for the best of several best_of in sampling_parameters"
        )
    if protocol.PAD_ID in tensors:
        single(tensors, protocol.PAD_ID)  # taken and not needed: nothing is padded


def _end_at(end_id: int, values: dict[str, Any]) -> None:
    if end_id != _NO_END:
        values["stop_token_ids"] = (*values.get("stop_token_ids", ()), end_id)
    elif values.setdefault("ignore_eos", True) is False:
        raise InvalidRequestError("end_id is -1, no token ends the answer, and ignore_eos is false; send one of them")


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number")
    try:
        return float(value)
    except OverflowError:
        raise TypeError("a number of at most 308 digits") from None


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("an integer")
    return value


def _top_k(value: object) -> int:
    top_k = _integer(value)
    return 0 if top_k == -1 else top_k  # vLLM writes -1 for every token


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _strings(value: object) -> tuple[str, ...]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(string, str) for string in strings):
        raise TypeError("a string or a list of strings")
    return tuple(strings)


def _integers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or any(isinstance(each, bool) or not isinstance(each, int) for each in value):
        raise TypeError("a list of integers")
    return tuple(value)


def _biases(value: object) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, dict):
        raise TypeError("an object of token ids and what to add to their logits")
    try:
        return tuple((int(token), _number(bias)) for token, bias in value.items())
    except (ValueError, TypeError):
        raise TypeError("an object whose names are token ids and whose values are numbers") from None


_PARAMETERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "n": _integer,
    "best_of": _integer,
    "max_tokens": _integer,
    "min_tokens": _integer,
    "temperature": _number,
    "top_k": _top_k,
    "top_p": _number,
    "min_p": _number,
    "typical_p": _number,
    "repetition_penalty": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "logit_bias": _biases,
    "bad_words": _strings,
    "stop": _strings,
    "stop_token_ids": _integers,
    "include_stop_str_in_output": _boolean,
    "ignore_eos": _boolean,
    "skip_special_tokens": _boolean,
    "seed": _integer,
    "logprobs": _integer,
    "prompt_logprobs": _integer,
    "priority": _integer,
}
_STRUCTURES: Final = "structured_outputs"
_GUIDED: Final[Mapping[str, StructureKind]] = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


def _from_json(source: str) -> dict[str, Any]:
    """Read vLLM's form: one JSON object whose names are those of SamplingParameters."""
    given = parsed_json(source, protocol.SAMPLING_PARAMETERS)
    if not isinstance(given, dict):
        raise InvalidRequestError(f"sampling_parameters must be a JSON object, not {type(given).__name__}")
    known = (*_PARAMETERS, _STRUCTURES, *_GUIDED)
    for name in given:
        if name not in known:
            raise InvalidRequestError(
                f"sampling_parameters has {name!r}, which is not supported; supported: {', '.join(known)}"
            )
    values = {}
    for name, read in _PARAMETERS.items():
        if given.get(name) is None:
            continue
        try:
            values[name] = read(given[name])
        except TypeError as expected:
            raise InvalidRequestError(
                f"sampling_parameters.{name} is {reprlib.repr(given[name])}; it must be {expected}"
            ) from expected
    structures = {**_structures(given.get(_STRUCTURES)), **_guided(given)}
    if len(structures) > 1:
        raise InvalidRequestError(f"an answer can have one structure; this request has {' and '.join(structures)}")
    if structures:
        values[_STRUCTURES] = next(iter(structures.values()))
    return values


def _structures(given: object) -> dict[str, StructuredOutput]:
    """Structures of vLLM's ``structured_outputs`` object, by the names that the request gives them."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidRequestError(
            f"structured_outputs is {reprlib.repr(given)}; it must be an object with one of "
            f"{', '.join(STRUCTURE_KINDS)}"
        )
    for kind in given:
        if kind not in STRUCTURE_KINDS:
            raise InvalidRequestError(
                f"structured_outputs has {kind!r}, which is not supported; supported: {', '.join(STRUCTURE_KINDS)}"
            )
    if isinstance(object_wanted := given.get("json_object"), bool) and not object_wanted:
        given = {kind: value for kind, value in given.items() if kind != "json_object"}
    return {
        f"{_STRUCTURES}.{kind}": _structure(kind, given[kind], f"{_STRUCTURES}.{kind}")
        for kind in STRUCTURE_KINDS
        if given.get(kind) is not None
    }


def _guided(given: Mapping[str, Any]) -> dict[str, StructuredOutput]:
    """Structures of vLLM's older names."""
    return {name: _structure(kind, given[name], name) for name, kind in _GUIDED.items() if given.get(name) is not None}


def _structure(kind: StructureKind, value: object, name: str) -> StructuredOutput:
    if kind == "json_object":
        if value is not True:
            raise InvalidRequestError(f"sampling_parameters.{name} is {reprlib.repr(value)}; it must be true or false")
        return StructuredOutput(kind)
    if isinstance(value, str) and kind != "choice":
        return StructuredOutput(kind, value)
    if kind in ("json", "choice"):
        return StructuredOutput(kind, json.dumps(value, ensure_ascii=False))
    raise InvalidRequestError(f"sampling_parameters.{name} is {reprlib.repr(value)}; it must be a string")
