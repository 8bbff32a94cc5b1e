"""Elements of tensors as Triton's raw contents have them."""

import struct
from collections.abc import Sequence
from typing import Final

_INTEGER_FORMATS: Final = {"INT32": "i", "UINT32": "I", "INT64": "q", "UINT64": "Q"}
_ONE_INTEGER: Final = {datatype: struct.Struct(f"<{form}") for datatype, form in _INTEGER_FORMATS.items()}
"""How ``struct`` reads one element, which costs less than numpy for the few integers of a chunk."""

_LENGTH_BYTES: Final = 4

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
    if int.from_bytes(content[:_LENGTH_BYTES], "little") == len(content) - _LENGTH_BYTES:  # one text, as in most chunks
        return [content[_LENGTH_BYTES:].decode("utf-8")]
    texts, position = [], 0
    while position < len(content):
        begin = position + _LENGTH_BYTES
        end = begin + int.from_bytes(content[position:begin], "little")
        if end > len(content):
            raise ValueError("a BYTES tensor is cut off")
        texts.append(content[begin:end].decode("utf-8"))
        position = end
    return texts


def read_integers(tensor: tuple[str, bytes]) -> tuple[int, ...]:
    """The integers of a datatype and its contents; raises ValueError."""
    datatype, content = tensor
    one = _ONE_INTEGER.get(datatype)
    if one is None:
        raise ValueError(f"{datatype} where integers belong")
    if len(content) == one.size:
        return one.unpack(content)
    count, rest = divmod(len(content), one.size)
    if rest:
        raise ValueError(f"{len(content)} bytes where {datatype} of {one.size} bytes each belong")
    return struct.unpack(f"<{count}{_INTEGER_FORMATS[datatype]}", content)
