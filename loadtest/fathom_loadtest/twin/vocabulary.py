"""The twin's tokens: a common word is one token, of anything else every three bytes; any text comes back whole."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from fathom_loadtest.content.synthetic import WORDS
from fathom_loadtest.errors import RefusedRequest

_PIECE: Final = re.compile(r" ?[^\s]+|\s", re.DOTALL)
_BYTES_A_TOKEN: Final = 3
_OPENING: Final = {word: 2 * place for place, word in enumerate(WORDS)}
_KNOWN: Final = _OPENING | {f" {word}": 2 * place + 1 for place, word in enumerate(WORDS)}
_TEXT_OF: Final = {token: text.encode() for text, token in _KNOWN.items()}
_FIRST_OF_BYTES: Final = 1 << 24
"""An id from here on holds up to three bytes, and above them their number; the largest is below 2 ** 26."""


def encode(text: str) -> list[int]:
    """Give a text's token ids."""
    ids: list[int] = []
    for piece in _PIECE.findall(text):
        ids += _ids_of(piece)
    return ids


def decode(ids: Iterable[int]) -> str:
    """Give the text of token ids; raises RefusedRequest for an id that is none."""
    return b"".join(map(_bytes_of, ids)).decode("utf-8", errors="replace")


@lru_cache(maxsize=65536)
def _ids_of(piece: str) -> tuple[int, ...]:
    known = _KNOWN.get(piece)
    if known is not None:
        return (known,)
    data = piece.encode("utf-8", errors="replace")
    return tuple(_packed(data[at : at + _BYTES_A_TOKEN]) for at in range(0, len(data), _BYTES_A_TOKEN))


def _packed(data: bytes) -> int:
    return _FIRST_OF_BYTES * len(data) + int.from_bytes(data, "big")


def _bytes_of(token: int) -> bytes:
    known = _TEXT_OF.get(token)
    if known is not None:
        return known
    length, value = divmod(token, _FIRST_OF_BYTES)
    if not 1 <= length <= _BYTES_A_TOKEN or value >> (8 * length):
        raise RefusedRequest("INVALID_ARGUMENT", f"{token} is no token id of the twin's")
    return value.to_bytes(length, "big")


class Speech:
    """The words of an answer: the known ones in a circle, from a place of its own."""

    def __init__(self, place: int) -> None:
        self._place = place

    def text(self, first: int, count: int) -> bytes:
        """Give the UTF-8 text of tokens ``first`` up to ``first + count``."""
        return b"".join([_TEXT_OF[token] for token in self.ids(first, count)])

    def ids(self, first: int, count: int) -> list[int]:
        """Give the ids of the same tokens."""
        ids = [2 * ((self._place + at) % len(WORDS)) + 1 for at in range(first, first + count)]
        if first == 0 and ids:
            ids[0] -= 1  # no space before the first word
        return ids
