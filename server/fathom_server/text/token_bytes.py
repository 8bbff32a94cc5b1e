"""The bytes that each token writes, for those who look at tokens one by one."""

import json
from typing import Any, Final

from tokenizers import Tokenizer

_SPACE_MARK: Final = "▁"
_CONTINUATION: Final = "##"


class SpelledTokens(dict[int, bytes]):
    """What each id of a vocabulary writes within a text, read when it is first asked for; nothing for an unknown id.

    Several tokens may share a character, so one token's bytes need not be UTF-8. A special token writes its name, or
    nothing where special tokens are skipped. Whole vocabularies would take a tenth of a second and more at every start.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = False) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._kinds = decoder_kinds(tokenizer)
        self._byte_of = {character: byte for byte, character in byte_characters().items()}
        for index, token in tokenizer.get_added_tokens_decoder().items():
            self[index] = b"" if skip_special_tokens and token.special else str(token.content).encode()

    def __missing__(self, index: int) -> bytes:
        token = self._tokenizer.id_to_token(index)  # a model's vocabulary may be padded beyond its tokenizer's
        written = self[index] = b"" if token is None else self._bytes_of(token)
        return written

    def _bytes_of(self, token: str) -> bytes:
        if "ByteLevel" in self._kinds:
            return bytes(self._byte_of[character] for character in token if character in self._byte_of)
        if "ByteFallback" in self._kinds and len(token) == 6 and token.startswith("<0x"):
            return bytes([int(token[3:5], 16)])
        if "WordPiece" in self._kinds:
            return token.removeprefix(_CONTINUATION).encode()
        return token.replace(_SPACE_MARK, " ").encode()


def decoder_kinds(tokenizer: Tokenizer) -> list[str]:
    """The types of a tokenizer's decoder, in their order, as ``tokenizer.json`` calls them; empty where it has none."""
    if tokenizer.decoder is None:
        return []
    description: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__())
    return [str(entry.get("type")) for entry in description.get("decoders", [description])]


def byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte (``bytes_to_unicode`` in openai/gpt-2, src/encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + position) for position, byte in enumerate(others)}
