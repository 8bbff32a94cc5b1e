"""Token ids to text, piece by piece, never splitting a character.

The pieces of an answer joined are the whole text: nothing is lost, and a character whose bytes are spread over several
tokens comes whole or, where the answer ends inside it, not at all.
"""

import codecs
from collections.abc import Mapping, Sequence
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from fathom_server.text.token_bytes import SpelledTokens, decoder_kinds


class Detokenizer(Protocol):
    """Turns the ids of one answer into text as they come."""

    def push(self, ids: Sequence[int]) -> str:
        """Text that is certain after these ids; empty while a character is incomplete."""
        ...


class DetokenizerFactory:
    """Makes the detokenizer of each answer; one factory a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._byte_level = decoder_kinds(tokenizer) == ["ByteLevel"]
        self._shown = SpelledTokens(tokenizer, skip_special_tokens=True)
        self._every = SpelledTokens(tokenizer)

    def new(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A detokenizer for one answer, in which special tokens are not seen or are seen by their names."""
        if not self._byte_level:
            return StreamDetokenizer(self._tokenizer, skip_special_tokens=skip_special_tokens)
        return ByteLevelDetokenizer(self._shown if skip_special_tokens else self._every)


class ByteLevelDetokenizer:
    """For byte-level BPE (GPT-2 and its heirs): tokens are bytes, and an incremental UTF-8 decoder joins them.

    Bytes that are no UTF-8 become U+FFFD, as in ``tokenizers``; bytes that may still become a character wait.
    """

    def __init__(self, token_bytes: Mapping[int, bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Sequence[int]) -> str:
        """Text that is certain after these ids."""
        return self._decoder.decode(b"".join([self._token_bytes[token] for token in ids]))


class StreamDetokenizer:
    """For every other kind (SentencePiece style, WordPiece): the library's own incremental decoder."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)

    def push(self, ids: Sequence[int]) -> str:
        """Text that is certain after these ids."""
        return "".join(self._stream.step(self._tokenizer, token) or "" for token in ids)
