"""A generate request's tensors as typed values; every refusal names the parameter, its value and the remedy."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fathom_client import protocol
from fathom_server.engine.request import SamplingParameters
from fathom_server.errors import InvalidRequestError
from fathom_server.text.tokenizer import TextError, TextTokenizer

Tensors = Mapping[str, npt.NDArray[Any]]

_OUTPUT_FLAGS: Final[Mapping[str, str]] = {
    protocol.RETURN_FINISH_REASON: protocol.FINISH_REASON,
    protocol.RETURN_NUM_INPUT_TOKENS: protocol.NUM_INPUT_TOKENS,
    protocol.RETURN_NUM_OUTPUT_TOKENS: protocol.NUM_OUTPUT_TOKENS,
    protocol.RETURN_OUTPUT_IDS: protocol.OUTPUT_IDS,
}


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What a caller asks of an LLM: the prompt's ids, how to sample, and which outputs to give.

    ``outputs`` are tensor names: the text always, the others where their ``return_...`` flag is set, as vLLM's backend
    has it.
    """

    prompt_ids: list[int]
    sampling: SamplingParameters
    stream: bool
    exclude_input_in_output: bool
    outputs: frozenset[str]


def read_generate_request(tensors: Tensors, tokenizer: TextTokenizer) -> GenerateRequest:
    """Read a request's input tensors (``protocol.GENERATE_INPUTS``); raises InvalidRequestError."""
    return GenerateRequest(
        prompt_ids=_prompt_ids(tensors, tokenizer),
        sampling=_sampling(tensors),
        stream=_flag(tensors, protocol.STREAM, default=False),
        exclude_input_in_output=_flag(tensors, protocol.EXCLUDE_INPUT_IN_OUTPUT, default=True),
        outputs=frozenset(
            {protocol.TEXT_OUTPUT}
            | {output for flag, output in _OUTPUT_FLAGS.items() if _flag(tensors, flag, default=False)}
        ),
    )


def _prompt_ids(tensors: Tensors, tokenizer: TextTokenizer) -> list[int]:
    prompts = [name for name in (protocol.TEXT_INPUT, protocol.MESSAGES, protocol.INPUT_IDS) if name in tensors]
    if len(prompts) != 1:
        given = " and ".join(prompts) if prompts else "none of them"
        raise InvalidRequestError(f"send exactly one of text_input, messages and input_ids; this request has {given}")
    if protocol.INPUT_IDS in tensors:
        return [int(token) for token in tensors[protocol.INPUT_IDS].reshape(-1)]
    text = _text(tensors, prompts[0])
    if not text:
        raise InvalidRequestError(f"{prompts[0]} is empty; send at least one character")
    try:
        if prompts[0] == protocol.TEXT_INPUT:
            return tokenizer.encode(text)
        return tokenizer.encode_messages(_json(text, protocol.MESSAGES))
    except TextError as error:
        raise InvalidRequestError(str(error)) from error


def _sampling(tensors: Tensors) -> SamplingParameters:
    values: dict[str, Any] = {}
    for name, kind in ((protocol.MAX_TOKENS, int), (protocol.TOP_K, int), (protocol.SEED, int)):
        if name in tensors:
            values[name] = kind(_single(tensors, name))
    for name in (protocol.TEMPERATURE, protocol.TOP_P, protocol.REPETITION_PENALTY):
        if name in tensors:
            values[name] = float(_single(tensors, name))
    if protocol.STOP_WORDS in tensors:
        words = tensors[protocol.STOP_WORDS].reshape(-1)
        values["stop"] = tuple(_utf8(word, protocol.STOP_WORDS) for word in words)
    if protocol.SAMPLING_PARAMETERS in tensors:
        for name, value in _sampling_json(_text(tensors, protocol.SAMPLING_PARAMETERS)).items():
            if name in values:
                raise InvalidRequestError(f"{name} is given twice, as a tensor and in sampling_parameters; send one")
            values[name] = value
    return SamplingParameters(**values)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number")
    return float(value)


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


_JSON_PARAMETERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "max_tokens": _integer,
    "temperature": _number,
    "top_k": _top_k,
    "top_p": _number,
    "seed": _integer,
    "repetition_penalty": _number,
    "stop": _strings,
    "ignore_eos": _boolean,
}


def _sampling_json(text: str) -> dict[str, Any]:
    """Read vLLM's form: one JSON object whose names are those of SamplingParameters."""
    given = _json(text, protocol.SAMPLING_PARAMETERS)
    if not isinstance(given, dict):
        raise InvalidRequestError(f"sampling_parameters must be a JSON object, not {type(given).__name__}")
    values = {}
    for name, value in given.items():
        read = _JSON_PARAMETERS.get(name)
        if read is None:
            known = ", ".join(_JSON_PARAMETERS)
            raise InvalidRequestError(f"sampling_parameters has {name!r}, which is not supported; supported: {known}")
        if value is None:
            continue
        try:
            values[name] = read(value)
        except TypeError as expected:
            raise InvalidRequestError(f"sampling_parameters.{name} is {value!r}; it must be {expected}") from expected
    return values


def _json(text: str, name: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{name} is not JSON: {error}") from error
    return value


def _single(tensors: Tensors, name: str) -> Any:
    values = tensors[name].reshape(-1)
    if len(values) != 1:
        raise InvalidRequestError(f"{name} has {len(values)} elements; it must have one")
    return values[0]


def _flag(tensors: Tensors, name: str, *, default: bool) -> bool:
    return bool(_single(tensors, name)) if name in tensors else default


def _text(tensors: Tensors, name: str) -> str:
    return _utf8(_single(tensors, name), name)


def _utf8(value: bytes | np.bytes_ | str, name: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{name} is not UTF-8 ({error.reason} at byte {error.start}); send UTF-8") from error
