"""Single values out of a request's tensors; every refusal names the tensor and the remedy."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom_server.errors import InvalidRequestError

Tensors = Mapping[str, npt.NDArray[Any]]


def single(tensors: Tensors, name: str) -> Any:
    """The one element of a tensor."""
    values = tensors[name].reshape(-1)
    if len(values) != 1:
        raise InvalidRequestError(f"{name} has {len(values)} elements; it must have one")
    return values[0]


def flag(tensors: Tensors, name: str, *, default: bool = False) -> bool:
    """A tensor's truth, or the default where the request has no such tensor."""
    return bool(single(tensors, name)) if name in tensors else default


def text(tensors: Tensors, name: str) -> str:
    """A tensor's one string."""
    return _utf8(single(tensors, name), name)


def texts(tensors: Tensors, name: str) -> tuple[str, ...]:
    """A tensor's strings."""
    return tuple(_utf8(element, name) for element in tensors[name].reshape(-1))


def parsed_json(source: str, name: str) -> object:
    """The value that a JSON text holds."""
    try:
        value: object = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{name} is not JSON: {error}") from error
    return value


def _utf8(value: bytes | np.bytes_ | str, name: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{name} is not UTF-8 ({error.reason} at byte {error.start}); send UTF-8") from error
