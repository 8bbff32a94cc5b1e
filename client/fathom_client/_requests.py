"""Arguments → ``ModelInferRequest``: the tensors of ``fathom_client.protocol``, as raw contents."""

import json
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from tritonclient.grpc import service_pb2

from fathom_client import protocol
from fathom_client._options import (
    INT32_MAX,
    MAX_TEMPERATURE,
    UINT64_MAX,
    GenerateOptions,
    Message,
    check_integer,
    check_number,
    check_stop,
    check_text,
    messages_json,
)
from fathom_client._timeouts import check_seconds
from fathom_client.errors import InvalidArgumentError

EMPTY_FINAL_PARAMETER: Final = "triton_enable_empty_final_response"
FINAL_PARAMETER: Final = "triton_final_response"
"""Triton marks each response of a decoupled model with the second if the request carries the first."""

_YES: Final = b"\x01"
_NO: Final = b"\x00"
_ALWAYS: Final = (
    protocol.EXCLUDE_INPUT_IN_OUTPUT,
    protocol.RETURN_FINISH_REASON,
    protocol.RETURN_NUM_INPUT_TOKENS,
    protocol.RETURN_NUM_OUTPUT_TOKENS,
    protocol.RETURN_OUTPUT_IDS,
)


PromptTensor = tuple[str, str, int, bytes]
"""Name, datatype, length and contents."""


def text_prompt(prompt: str | Sequence[int]) -> PromptTensor:
    """Return the tensor for a text or for token ids; raises InvalidArgumentError."""
    if isinstance(prompt, str):
        return protocol.TEXT_INPUT, "BYTES", 1, _bytes_element(check_text("prompt", prompt))
    ids = _token_ids(prompt)
    return protocol.INPUT_IDS, "INT32", len(ids), ids.astype("<i4").tobytes()


def messages_prompt(messages: Sequence[Message | Mapping[str, Any]]) -> PromptTensor:
    """Return the tensor for a conversation; raises InvalidArgumentError."""
    return protocol.MESSAGES, "BYTES", 1, _bytes_element(messages_json(messages))


def generate_request(
    model: str,
    prompt: PromptTensor,
    stream: bool,
    default_timeout_s: float | None,
    options: GenerateOptions,
) -> tuple[service_pb2.ModelInferRequest, float | None]:
    """Build a generation's request; return it with its time limit in seconds. Raises InvalidArgumentError."""
    unknown = options.keys() - GenerateOptions.__annotations__.keys()
    if unknown:
        valid = ", ".join(GenerateOptions.__annotations__)
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}; valid: {valid}")
    timeout_s = options.get("timeout_s")
    if timeout_s is None:
        timeout_s = default_timeout_s
    else:
        check_seconds("timeout_s", timeout_s)
    request = service_pb2.ModelInferRequest(model_name=check_model(model), id=_request_id(options.get("request_id")))
    request.parameters[EMPTY_FINAL_PARAMETER].bool_param = True
    set_timeout(request, timeout_s)
    _add(request, *prompt)
    for name in _ALWAYS:
        _add(request, name, "BOOL", 1, _YES)
    _add(request, protocol.STREAM, "BOOL", 1, _YES if stream else _NO)
    for name, datatype, length, contents in _sampling(options):
        _add(request, name, datatype, length, contents)
    return request, timeout_s


def encode_request(model: str, columns: Mapping[str, Sequence[bytes]], truncate: bool) -> service_pb2.ModelInferRequest:
    """Build the request of one batch of an encoder: each column of texts, and ``truncate``, as [rows, 1]."""
    request = service_pb2.ModelInferRequest(model_name=model, id=_request_id(None))
    rows = 0
    for name, texts in columns.items():
        rows = len(texts)
        _add(request, name, "BYTES", rows, b"".join(map(_bytes_element, texts)), columns=1)
    if truncate:
        _add(request, protocol.TRUNCATE, "BOOL", rows, _YES * rows, columns=1)
    return request


def utf8_texts(name: str, texts: str | Sequence[str]) -> list[bytes]:
    """Return the texts' UTF-8 bytes; raise InvalidArgumentError naming the text that is wrong."""
    if isinstance(texts, str):
        return [check_text(name, texts)]
    if not isinstance(texts, Sequence):
        raise InvalidArgumentError(f"{name} is a {type(texts).__name__}; give a str or a list of str")
    if not texts:
        raise InvalidArgumentError(f"{name} is empty; give at least one text")
    return [check_text(f"{name}[{index}]", text) for index, text in enumerate(texts)]


def check_model(model: object) -> str:
    """Return a model's name; raise InvalidArgumentError if it is none."""
    check_text("model", model)
    return str(model)


def set_timeout(request: service_pb2.ModelInferRequest, timeout_s: float | None) -> None:
    """Tell the server in how many microseconds the whole answer must be given."""
    if timeout_s is not None:
        request.parameters[protocol.TIMEOUT_PARAMETER].int64_param = max(1, round(timeout_s * 1e6))


def _sampling(options: GenerateOptions) -> Iterator[tuple[str, str, int, bytes]]:
    if (max_tokens := options.get("max_tokens")) is not None:
        yield _int32(protocol.MAX_TOKENS, check_integer("max_tokens", max_tokens, 1, INT32_MAX))
    if (temperature := options.get("temperature")) is not None:
        number = check_number("temperature", temperature, 0.0, MAX_TEMPERATURE, above=False)
        yield _float32(protocol.TEMPERATURE, number)
    if (top_k := options.get("top_k")) is not None:
        yield _int32(protocol.TOP_K, check_integer("top_k", top_k, 0, INT32_MAX))
    if (top_p := options.get("top_p")) is not None:
        yield _float32(protocol.TOP_P, check_number("top_p", top_p, 0.0, 1.0, above=True))
    if (seed := options.get("seed")) is not None:
        yield protocol.SEED, "UINT64", 1, struct.pack("<Q", check_integer("seed", seed, 0, UINT64_MAX))
    if (penalty := options.get("repetition_penalty")) is not None:
        number = check_number("repetition_penalty", penalty, 0.0, float("inf"), above=True)
        yield _float32(protocol.REPETITION_PENALTY, number)
    if stop := check_stop(options.get("stop")):
        yield protocol.STOP_WORDS, "BYTES", len(stop), b"".join(map(_bytes_element, stop))
    if options.get("ignore_eos", False):
        yield protocol.SAMPLING_PARAMETERS, "BYTES", 1, _bytes_element(json.dumps({"ignore_eos": True}).encode())


def _int32(name: str, value: int) -> tuple[str, str, int, bytes]:
    return name, "INT32", 1, struct.pack("<i", value)


def _float32(name: str, value: float) -> tuple[str, str, int, bytes]:
    return name, "FP32", 1, struct.pack("<f", value)


def _bytes_element(value: bytes) -> bytes:
    """Return one element of a BYTES tensor: its length in four bytes, little endian, then itself."""
    return struct.pack("<I", len(value)) + value


def _add(
    request: service_pb2.ModelInferRequest,
    name: str,
    datatype: str,
    length: int,
    contents: bytes,
    *,
    columns: int | None = None,
) -> None:
    tensor = request.inputs.add(name=name, datatype=datatype)
    tensor.shape.append(length)
    if columns is not None:
        tensor.shape.append(columns)
    request.raw_input_contents.append(contents)


def _token_ids(prompt: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    try:
        ids = np.asarray(prompt)
    except ValueError:
        ids = np.empty(0, dtype=object)
    if ids.size == 0 and ids.dtype != object:
        raise InvalidArgumentError("prompt is empty; give at least one token id")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InvalidArgumentError(
            f"prompt is a {type(prompt).__name__} of something else than token ids; give a str or a list of int"
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high > INT32_MAX:
        raise InvalidArgumentError(
            f"prompt has the token id {low if low < 0 else high}; ids must be between 0 and {INT32_MAX}"
        )
    return ids.astype(np.int64)


def _request_id(request_id: str | None) -> str:
    if request_id is None:
        return uuid.uuid4().hex
    check_text("request_id", request_id)
    return request_id
