"""Requests' tensors → Python values, and refusals → Triton's errors."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from fathom_client import protocol
from fathom_loadtest.errors import RefusedRequest
from fathom_loadtest.twin import vocabulary
from fathom_loadtest.twin.faults import ERROR_CODES

Tensors = Mapping[str, npt.NDArray[Any]]
_MESSAGE_FRAME = tuple(vocabulary.encode("\n\n\n"))


def read_tensors(request: Any) -> Tensors:
    """Give a request's inputs, each laid flat."""
    return {tensor.name(): tensor.as_numpy().reshape(-1) for tensor in request.inputs()}


def read_parameters(request: Any) -> dict[str, Any]:
    """Give a request's own parameters; those that Triton keeps, such as ``timeout``, are not among them."""
    parameters: dict[str, Any] = json.loads(request.parameters() or "{}")
    return parameters


def strings(values: list[bytes]) -> npt.NDArray[np.object_]:
    """Lay byte strings out as Triton takes them."""
    return np.array(values, dtype=np.object_)


def triton_error(refusal: RefusedRequest) -> Any:
    """Give Triton's error of a refusal."""
    prefix = f"{refusal.code}: "
    told = f"{prefix}{refusal}" if prefix in protocol.STATUS_PREFIXES else str(refusal)
    return pb_utils.TritonError(told, getattr(pb_utils.TritonError, ERROR_CODES[refusal.code]))


def single(tensors: Tensors, name: str) -> Any:
    """Give a tensor's one element; raises RefusedRequest if it has not one."""
    values = tensors[name]
    if len(values) != 1:
        raise RefusedRequest("INVALID_ARGUMENT", f"{name} has {len(values)} elements; it must have one")
    return values[0]


def text(value: bytes, name: str) -> str:
    """Decode a text; raises RefusedRequest if it is not UTF-8, or empty."""
    try:
        decoded = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedRequest(
            "INVALID_ARGUMENT", f"{name} is not UTF-8 ({error.reason} at byte {error.start})"
        ) from None
    if not decoded:
        raise RefusedRequest("INVALID_ARGUMENT", f"{name} is empty; send at least one character")
    return decoded


def prompt_ids(tensors: Tensors) -> list[int]:
    """Give the token ids of a prompt, in whichever of the three forms it comes; raises RefusedRequest."""
    forms = (protocol.TEXT_INPUT, protocol.MESSAGES, protocol.INPUT_IDS)
    given = [name for name in forms if name in tensors]
    if len(given) != 1:
        raise RefusedRequest(
            "INVALID_ARGUMENT", f"send exactly one of {', '.join(forms)}; given: {', '.join(given) or 'none'}"
        )
    if given == [protocol.INPUT_IDS]:
        ids: list[int] = tensors[protocol.INPUT_IDS].tolist()
        if not ids:
            raise RefusedRequest("INVALID_ARGUMENT", "input_ids is empty; send at least one token")
        return ids
    prompt = text(single(tensors, given[0]), given[0])
    return vocabulary.encode(prompt) if given == [protocol.TEXT_INPUT] else _message_ids(prompt)


def parsed_json(source: str, name: str) -> Any:
    """Read a JSON text; raises RefusedRequest."""
    try:
        return json.loads(source)
    except (ValueError, RecursionError) as error:
        raise RefusedRequest("INVALID_ARGUMENT", f"{name} is not JSON: {error}") from None


def _message_ids(source: str) -> list[int]:
    """Ids of a conversation: those of each content, and three for what a template would put around it."""
    messages = parsed_json(source, protocol.MESSAGES)
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise RefusedRequest("INVALID_ARGUMENT", "messages must be a list of at least one message, each an object")
    ids: list[int] = []
    for message in messages:
        content = message.get("content")
        if "role" not in message:
            raise RefusedRequest("INVALID_ARGUMENT", "a message has no role")
        ids += _MESSAGE_FRAME
        ids += vocabulary.encode(content if isinstance(content, str) else json.dumps(content))
    return ids
