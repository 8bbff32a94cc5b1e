"""The bytes that each token writes, for those who list tokens one by one."""

import json
from typing import Any, Final

from tokenizers import Tokenizer

from fathom_server.text.detokenizer import byte_characters

_SPACE_MARK: Final = "▁"
_CONTINUATION: Final = "##"


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """What each id of a vocabulary writes within a text; a special token its name, an id that there is not nothing.

    Several tokens may share a character, so one token's bytes need not be UTF-8.
    """
    description = json.loads(tokenizer.to_str())
    decoder: dict[str, Any] = description.get("decoder") or {}
    kinds = {entry.get("type") for entry in decoder.get("decoders", [decoder])}
    byte_of = {character: byte for byte, character in byte_characters().items()}
    added = {entry["id"] for entry in description.get("added_tokens", ())}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, index in vocabulary.items():
        if index in added:
            table[index] = token.encode()
        elif "ByteLevel" in kinds:
            table[index] = bytes(byte_of[character] for character in token if character in byte_of)
        elif "ByteFallback" in kinds and len(token) == 6 and token.startswith("<0x"):
            table[index] = bytes([int(token[3:5], 16)])
        elif "WordPiece" in kinds:
            table[index] = token.removeprefix(_CONTINUATION).encode()
        else:
            table[index] = token.replace(_SPACE_MARK, " ").encode()
    return table
