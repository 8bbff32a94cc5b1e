"""Sampling options → the request's tensors; what has no tensor of its own goes in one JSON object, vLLM's form."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from fathom_client import protocol
from fathom_client._options import (
    INT32_MAX,
    UINT64_MAX,
    GenerateOptions,
    check_integer,
    check_number,
    check_strings,
    check_text,
    encode,
)
from fathom_client._tensors import Tensor, boolean, float32, int32, strings, uint64
from fathom_client.errors import InvalidArgumentError

_PENALTY: Final = (-protocol.MAX_PENALTY, protocol.MAX_PENALTY, False)
_SHARE: Final = (0.0, 1.0, False)
_POSITIVE_SHARE: Final = (0.0, 1.0, True)

_INTEGER_TENSORS: Final = {
    protocol.MAX_TOKENS: (1, INT32_MAX),
    protocol.MIN_TOKENS: (0, INT32_MAX),
    protocol.TOP_K: (0, INT32_MAX),
    protocol.PRIORITY: (-INT32_MAX - 1, INT32_MAX),
}
_NUMBER_TENSORS: Final = {
    protocol.TEMPERATURE: (0.0, protocol.MAX_TEMPERATURE, False),
    protocol.TOP_P: _POSITIVE_SHARE,
    protocol.MIN_P: _SHARE,
    protocol.REPETITION_PENALTY: (0.0, float("inf"), True),
    protocol.PRESENCE_PENALTY: _PENALTY,
    protocol.FREQUENCY_PENALTY: _PENALTY,
}
_INTEGERS: Final = {
    "n": (1, protocol.MAX_SEQUENCES),
    "best_of": (1, protocol.MAX_SEQUENCES),
    "logprobs": (0, protocol.MAX_LOGPROBS),
    "prompt_logprobs": (0, protocol.MAX_LOGPROBS),
}
_FLAGS: Final = ("ignore_eos", "include_stop_str_in_output")


def sampling_tensors(options: GenerateOptions) -> Iterator[Tensor]:
    """Give the tensors that say how to sample; raises InvalidArgumentError naming the option."""
    given: Mapping[str, Any] = {name: value for name, value in options.items() if value is not None}
    yield boolean(protocol.EXCLUDE_INPUT_IN_OUTPUT, not given.get("echo", False))
    for name, (low, high) in _INTEGER_TENSORS.items():
        if name in given:
            yield int32(name, check_integer(name, given[name], low, high))
    for name, (least, most, above) in _NUMBER_TENSORS.items():
        if name in given:
            yield float32(name, check_number(name, given[name], least, most, above=above))
    if "seed" in given:
        yield uint64(protocol.SEED, check_integer("seed", given["seed"], 0, UINT64_MAX))
    for name, tensor in (("stop", protocol.STOP_WORDS), ("bad_words", protocol.BAD_WORDS)):
        if words := check_strings(name, given.get(name)):
            yield strings(tensor, words)
    if parameters := _parameters(given):
        yield strings(protocol.SAMPLING_PARAMETERS, [encode("sampling_parameters", _json(parameters))])


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """What goes in ``sampling_parameters``."""
    parameters: dict[str, Any] = {
        name: check_integer(name, given[name], low, high) for name, (low, high) in _INTEGERS.items() if name in given
    }
    if "typical_p" in given:
        parameters["typical_p"] = check_number("typical_p", given["typical_p"], 0.0, 1.0, above=True)
    if biases := _biases(given.get("logit_bias", {})):
        parameters["logit_bias"] = biases
    if ids := _token_ids(given.get("stop_token_ids", ())):
        parameters["stop_token_ids"] = ids
    parameters |= {name: True for name in _FLAGS if given.get(name, False)}
    if not given.get("skip_special_tokens", True):
        parameters["skip_special_tokens"] = False
    if structure := _structure(given):
        parameters["structured_outputs"] = structure
    return parameters


def _biases(biases: object) -> dict[str, float]:
    if not isinstance(biases, Mapping):
        raise InvalidArgumentError(f"logit_bias is {biases!r}; give a mapping of token ids to what is added")
    most = protocol.MAX_LOGIT_BIAS
    return {
        str(check_integer("a token id of logit_bias", token, 0, INT32_MAX)): check_number(
            f"logit_bias[{token}]", bias, -most, most, above=False
        )
        for token, bias in biases.items()
    }


def _token_ids(ids: object) -> list[int]:
    if isinstance(ids, str | bytes) or not isinstance(ids, Sequence):
        raise InvalidArgumentError(f"stop_token_ids is {ids!r}; give a list of token ids")
    return [check_integer(f"stop_token_ids[{index}]", token, 0, INT32_MAX) for index, token in enumerate(ids)]


def _structure(given: Mapping[str, Any]) -> dict[str, Any]:
    """The one structure that an answer must have, under vLLM's name for its kind."""
    structures: dict[str, Any] = {}
    if "json_schema" in given:
        schema = given["json_schema"]
        if not isinstance(schema, str | Mapping):
            raise InvalidArgumentError(f"json_schema is a {type(schema).__name__}; give a mapping, or JSON as a str")
        structures["json_schema"] = ("json", schema if isinstance(schema, str) else dict(schema))
    if given.get("json_object", False):
        structures["json_object"] = ("json_object", True)
    for name in ("regex", "grammar"):
        if name in given:
            check_text(name, given[name])
            structures[name] = (name, given[name])
    if "choice" in given:
        choices = check_strings("choice", given["choice"])
        if not choices:
            raise InvalidArgumentError("choice is empty; give at least one string")
        structures["choice"] = ("choice", list(given["choice"]))
    if len(structures) > 1:
        raise InvalidArgumentError(f"an answer can have one structure; choose one of {' and '.join(structures)}")
    return dict(structures.values())


def _json(parameters: Mapping[str, Any]) -> str:
    try:
        return json.dumps(parameters, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"json_schema cannot be written as JSON: {error}") from None
