"""Elements of tensors as Triton's raw contents have them."""

import struct
from collections.abc import Sequence
from typing import Final

_INTEGER_DATATYPES: Final = {"INT32": (4, "i"), "UINT32": (4, "I"), "INT64": (8, "q"), "UINT64": (8, "Q")}
"""Bytes of an element, and its format in ``struct``, which costs less than numpy for the few integers of a chunk."""

Tensor = tuple[str, str, int, bytes]
"""Name, datatype, length and contents."""


def int32(name: str, value: int) -> Tensor:
    """A tensor of one INT32."""
    return name, "INT32", 1, struct.pack("<i", value)


def float32(name: str, value: float) -> Tensor:
    """A tensor of one FP32."""
    return name, "FP32", 1, struct.pack("<f", value)


def uint64(name: str, value: int) -> Tensor:
    """A tensor of one UINT64."""
    return name, "UINT64", 1, struct.pack("<Q", value)


def boolean(name: str, value: bool) -> Tensor:
    """A tensor of one BOOL."""
    return name, "BOOL", 1, b"\x01" if value else b"\x00"


def strings(name: str, values: Sequence[bytes]) -> Tensor:
    """A BYTES tensor of texts."""
    return name, "BYTES", len(values), b"".join(map(bytes_element, values))


def bytes_element(value: bytes) -> bytes:
    """Return one element of a BYTES tensor: its length in four bytes, little endian, then itself."""
    return struct.pack("<I", len(value)) + value


def read_strings(tensor: tuple[str, bytes]) -> list[str]:
    """The texts of a datatype and its contents; raises ValueError."""
    datatype, content = tensor
    if datatype != "BYTES":
        raise ValueError(f"{datatype} where BYTES belongs")
    texts, position = [], 0
    while position < len(content):
        end = position + 4 + int.from_bytes(content[position : position + 4], "little")
        if end > len(content):
            raise ValueError("a BYTES tensor is cut off")
        texts.append(content[position + 4 : end].decode("utf-8"))
        position = end
    return texts


def read_integers(tensor: tuple[str, bytes]) -> tuple[int, ...]:
    """The integers of a datatype and its contents; raises ValueError."""
    datatype, content = tensor
    if datatype not in _INTEGER_DATATYPES:
        raise ValueError(f"{datatype} where integers belong")
    size, form = _INTEGER_DATATYPES[datatype]
    count, rest = divmod(len(content), size)
    if rest:
        raise ValueError(f"{len(content)} bytes where {datatype} of {size} bytes each belong")
    return struct.unpack(f"<{count}{form}", content)
