"""What comes in through a pipe, in bounded memory.

Bytes are read from the descriptor itself: a thread that waits in ``sys.stdin`` holds a lock that the interpreter wants
when it ends.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from fathom_client.errors import InvalidArgumentError

MAX_LINE_BYTES: Final = 16 * 2**20

_DESCRIPTOR: Final = 0
_CHUNK_BYTES: Final = 65536


def is_terminal() -> bool:
    """Whether somebody types."""
    return sys.stdin is not None and os.isatty(_DESCRIPTOR)


def read_text() -> str:
    """Return all of standard input; raises InvalidArgumentError if it is not UTF-8 or cannot be read."""
    return utf8(b"".join(_chunks()), "standard input")


def read_lines() -> list[str]:
    """Return all lines of standard input, without their ends; raises InvalidArgumentError as ``read_text``."""
    return [line.removesuffix("\r") for line in read_text().removesuffix("\n").split("\n")]


def raw_lines() -> Iterator[bytes | None]:
    """Lines of standard input as they come, without their ends; None for one of more than MAX_LINE_BYTES.

    Raises InvalidArgumentError if it cannot be read.
    """
    for lines in lines_together():
        yield from lines


def lines_together() -> Iterator[list[bytes | None]]:
    """The same lines, in the groups in which they came: what is there at once, up to a chunk."""
    return split_lines(_chunks())


def split_lines(chunks: Iterable[bytes]) -> Iterator[list[bytes | None]]:
    """The lines that end in each chunk, and at last what has no end; None for one of more than MAX_LINE_BYTES."""
    begun = bytearray()
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        if ended:
            begun += ended[0]
            yield [_whole(begun), *map(_whole, ended[1:])]
            begun.clear()
        begun += rest
        del begun[MAX_LINE_BYTES + 1 :]  # so much shows that it is too long
    if begun:
        yield [_whole(begun)]


def utf8(raw: bytes, what: str) -> str:
    """Return the text; raise InvalidArgumentError if it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"{what} is not UTF-8: byte {raw[error.start]:#04x} at position {error.start}; convert it first"
        ) from None


def utf8_line(raw: bytes | None, number: int) -> str:
    """Return the text of line ``number``; raise InvalidArgumentError if it is too long or not UTF-8."""
    if raw is None:
        raise InvalidArgumentError(f"line {number} is longer than {MAX_LINE_BYTES} bytes; split it")
    return utf8(raw, f"line {number}")


def _whole(line: bytes | bytearray) -> bytes | None:
    return None if len(line) > MAX_LINE_BYTES else bytes(line).removesuffix(b"\r")


def _chunks() -> Iterator[bytes]:
    if sys.stdin is None:  # and its descriptor may be something else by now
        raise InvalidArgumentError("standard input is closed; give it something to read")
    try:
        while chunk := os.read(_DESCRIPTOR, _CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise InvalidArgumentError(f"standard input cannot be read: {error.strerror}") from None
