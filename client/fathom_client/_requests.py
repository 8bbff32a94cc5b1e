"""Arguments → ``ModelInferRequest``: the tensors of ``fathom_client.protocol``, as raw contents."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from tritonclient.grpc import service_pb2

from fathom_client import protocol
from fathom_client._options import INT32_MAX, GenerateOptions, Message, check_text, messages_json
from fathom_client._sampling import sampling_tensors
from fathom_client._tensors import Tensor, boolean, bytes_element, strings
from fathom_client._timeouts import check_seconds
from fathom_client.errors import InvalidArgumentError

EMPTY_FINAL_PARAMETER: Final = "triton_enable_empty_final_response"
FINAL_PARAMETER: Final = "triton_final_response"
"""Triton marks each response of a decoupled model with the second if the request carries the first."""

_YES: Final = b"\x01"
_ALWAYS: Final = (
    protocol.RETURN_FINISH_REASON,
    protocol.RETURN_NUM_INPUT_TOKENS,
    protocol.RETURN_NUM_OUTPUT_TOKENS,
    protocol.RETURN_OUTPUT_IDS,
)


def text_prompt(prompt: str | Sequence[int]) -> Tensor:
    """Return the tensor for a text or for token ids; raises InvalidArgumentError."""
    if isinstance(prompt, str):
        return strings(protocol.TEXT_INPUT, [check_text("prompt", prompt)])
    return ids_prompt("prompt", prompt)


def text_item(prompt: str | Sequence[int], options: GenerateOptions) -> Tensor:
    """``text_prompt`` as one of a list, whose options say nothing of it."""
    return text_prompt(prompt)


def ids_prompt(name: str, token_ids: Sequence[int]) -> Tensor:
    """Return the tensor for token ids; raises InvalidArgumentError."""
    ids = _token_ids(name, token_ids)
    return protocol.INPUT_IDS, "INT32", len(ids), ids.astype("<i4").tobytes()


def messages_prompt(messages: Sequence[Message | Mapping[str, Any]], options: GenerateOptions) -> Tensor:
    """Return the tensor for a conversation, with its options for the chat template; raises InvalidArgumentError."""
    return strings(protocol.MESSAGES, [messages_json(messages, options)])


def generate_request(
    model: str,
    prompt: Tensor,
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
    if (client := options.get("client")) is not None:
        check_text("client", client)
        request.parameters[protocol.CLIENT_PARAMETER].string_param = client
    if (precision := options.get("precision")) is not None:
        check_text("precision", precision)
        request.parameters[protocol.PRECISION_PARAMETER].string_param = precision
    _add(request, *prompt)
    for name in _ALWAYS:
        _add(request, *boolean(name, True))
    _add(request, *boolean(protocol.STREAM, stream))
    for tensor in sampling_tensors(options):
        _add(request, *tensor)
    return request, timeout_s


def plain_request(model: str, tensor: Tensor) -> service_pb2.ModelInferRequest:
    """Build a request of one tensor."""
    request = service_pb2.ModelInferRequest(model_name=model, id=_request_id(None))
    _add(request, *tensor)
    return request


def encode_request(
    model: str, columns: Mapping[str, Sequence[bytes]], truncate: bool, request_id: str | None
) -> service_pb2.ModelInferRequest:
    """Build the request of one batch of an encoder: each column of texts, and ``truncate``, as [rows, 1]."""
    request = service_pb2.ModelInferRequest(model_name=model, id=_request_id(request_id))
    rows = 0
    for name, texts in columns.items():
        rows = len(texts)
        _add(request, name, "BYTES", rows, b"".join(map(bytes_element, texts)), columns=1)
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


def _token_ids(name: str, prompt: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    try:
        ids = np.asarray(prompt)
    except ValueError:
        ids = np.empty(0, dtype=object)
    if ids.size == 0 and ids.dtype != object:
        raise InvalidArgumentError(f"{name} is empty; give at least one token id")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        wanted = "a str or a list of int" if name == "prompt" else "a list of int"
        raise InvalidArgumentError(
            f"{name} is a {type(prompt).__name__} of something else than token ids; give {wanted}"
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high > INT32_MAX:
        raise InvalidArgumentError(
            f"{name} has the token id {low if low < 0 else high}; ids must be between 0 and {INT32_MAX}"
        )
    return ids.astype(np.int64)


def _request_id(request_id: str | None) -> str:
    if request_id is None:
        return uuid.uuid4().hex
    check_text("request_id", request_id)
    return request_id
