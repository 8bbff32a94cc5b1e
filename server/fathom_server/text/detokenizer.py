"""Token ids to text, piece by piece, never splitting a character.

The pieces of an answer joined are the whole text: nothing is lost, and a character whose bytes are spread over several
tokens comes whole or, where the answer ends inside it, not at all.
"""

import codecs
import json
from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Detokenizer(Protocol):
    """Turns the ids of one answer into text as they come."""

    def push(self, ids: Sequence[int]) -> str:
        """Text that is certain after these ids; empty while a character is incomplete."""
        ...


class DetokenizerFactory:
    """Makes the detokenizer of each answer; one factory a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tables = _byte_level_tables(tokenizer)

    def new(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A detokenizer for one answer, in which special tokens are not seen or are seen by their names."""
        if self._tables is None:
            return StreamDetokenizer(self._tokenizer, skip_special_tokens=skip_special_tokens)
        shown, every = self._tables
        return ByteLevelDetokenizer(shown if skip_special_tokens else every)


class ByteLevelDetokenizer:
    """For byte-level BPE (GPT-2 and its heirs): tokens are bytes, and an incremental UTF-8 decoder joins them.

    Bytes that are no UTF-8 become U+FFFD, as in ``tokenizers``; bytes that may still become a character wait.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Sequence[int]) -> str:
        """Text that is certain after these ids."""
        known = len(self._token_bytes)  # a model's vocabulary may be padded beyond its tokenizer's
        return self._decoder.decode(b"".join(self._token_bytes[token] for token in ids if token < known))


class StreamDetokenizer:
    """For every other kind (SentencePiece style, WordPiece): the library's own incremental decoder."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)

    def push(self, ids: Sequence[int]) -> str:
        """Text that is certain after these ids."""
        return "".join(self._stream.step(self._tokenizer, token) or "" for token in ids)


def _byte_level_tables(tokenizer: Tokenizer) -> tuple[list[bytes], list[bytes]] | None:
    """Bytes of every id of a byte-level tokenizer, without and with those of special tokens; None for another kind."""
    description = json.loads(tokenizer.to_str())
    decoder = description.get("decoder") or {}
    decoders = decoder.get("decoders", [decoder])
    if [entry.get("type") for entry in decoders] != ["ByteLevel"]:
        return None
    byte_of = {character: byte for byte, character in byte_characters().items()}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    every = [b""] * (max(vocabulary.values(), default=-1) + 1)
    added = {entry["id"]: entry for entry in description.get("added_tokens", ())}
    for token, index in vocabulary.items():
        every[index] = token.encode() if index in added else bytes(byte_of[character] for character in token)
    shown = list(every)
    for index, entry in added.items():
        if entry["special"]:
            shown[index] = b""
    return shown, every


def byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte (``bytes_to_unicode`` in openai/gpt-2, src/encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + position) for position, byte in enumerate(others)}
