"""A tokenizer as grammars see it: the bytes of every token, and how a text is spelled in the middle of an answer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from fathom_server.errors import InvalidRequestError
from fathom_server.text.token_bytes import byte_characters

SPACE_MARK: Final = "▁"
"""What stands for a space in a SentencePiece vocabulary."""

_UTF8_BYTES: Final = frozenset(range(256)) - {0xC0, 0xC1, *range(0xF5, 0x100)}


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """What each token writes.

    ``table`` holds the bytes of every id of the model, empty where the id writes no text: special tokens, tokens in
    angle brackets that only control, and ids that pad the model's vocabulary. ``strips_first_space``: the tokenizer
    drops a space at the beginning of an answer, as SentencePiece does.
    """

    table: tuple[bytes, ...]
    strips_first_space: bool


class FirstTokens:
    """The first token of an answer, by a tokenizer that drops a space before every answer.

    A token that begins with a space is allowed where the grammar allows the token of its text without the space, and
    the space alone, which shows nothing, where the answer may begin with one.
    """

    def __init__(self, table: Sequence[bytes]) -> None:
        ids = {text: token for token, text in enumerate(table) if text}
        spaced = [token for token, text in enumerate(table) if text.startswith(b" ")]
        self._spaced = np.asarray(spaced, dtype=np.int64)
        self._shown = np.asarray([ids.get(table[token][1:], -1) for token in spaced], dtype=np.int64)
        self._alone = np.asarray([token for token in spaced if table[token] == b" "], dtype=np.int64)
        self._shown_by: dict[int, int | None] = dict(zip(spaced, self._shown.tolist(), strict=True))
        self._shown_by |= dict.fromkeys(self._alone.tolist())

    def as_shown(self, token: int) -> int | None:
        """The token whose text is what ``token`` shows at the beginning; None for the space alone."""
        return self._shown_by.get(token, token)

    def allow(self, mask: npt.NDArray[np.int32]) -> None:
        """Turn a mask of texts, int32 [ceil(vocabulary / 32)], into one of first tokens, in place."""
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        may_begin_with_space = bits[self._spaced].any()
        bits[self._spaced] = np.where(self._shown >= 0, bits[self._shown], 0)
        bits[self._alone] = may_begin_with_space
        mask[:] = np.packbits(bits, bitorder="little").view(np.int32)


class Speller:
    """Spells bytes with the tokens that the tokenizer itself would choose, without a space or a token before them.

    It has the form of llguidance's ``TokenizerWrapper``. A text that the tokenizer does not give back byte for byte
    (one that normalises) is spelled by the longest tokens.
    """

    is_tokenizer_wrapper: Final = True
    bos_token_id: Final = None
    special_token_ids: Final = ()

    def __init__(self, tokenizer: Tokenizer, tokens: TokenBytes, eos_token_id: int) -> None:
        self.tokens = list(tokens.table)
        self.eos_token_id = eos_token_id
        self._tokenizer = _without_prefix(tokenizer)
        self._longest = max(map(len, tokens.table))
        self._ids = {spelled: token for token, spelled in enumerate(tokens.table) if spelled}

    def __call__(self, text: str) -> list[int]:
        """Ids of a text."""
        ids = list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        wanted = text.encode()
        if b"".join(self.tokens[token] for token in ids) == wanted:
            return ids
        return self._longest_first(wanted)

    def _longest_first(self, text: bytes) -> list[int]:
        ids: list[int] = []
        start = 0
        while start < len(text):
            for end in range(min(len(text), start + self._longest), start, -1):
                token = self._ids.get(text[start:end])
                if token is not None:
                    ids.append(token)
                    start = end
                    break
            else:
                raise ValueError(f"no token writes the byte 0x{text[start]:02X}, which is no part of UTF-8")
        return ids


def read_token_bytes(tokenizer: Tokenizer, vocabulary: int, eos_token_ids: frozenset[int]) -> TokenBytes:
    """Bytes of the ids 0 … ``vocabulary`` - 1; those in ``eos_token_ids`` have none.

    Raises InvalidRequestError for a tokenizer whose tokens do not write the same bytes wherever they stand (WordPiece
    and its like, whose decoder puts spaces between words), or that cannot write every text.
    """
    description = json.loads(tokenizer.to_str())
    decoder = description.get("decoder") or {}
    decoders: list[dict[str, Any]] = decoder.get("decoders", [decoder])
    kinds = {entry.get("type") for entry in decoders}
    added = {entry["id"]: entry for entry in description.get("added_tokens", ())}
    byte_level = "ByteLevel" in kinds
    byte_of = {character: byte for byte, character in byte_characters().items()}
    if not byte_level and "Metaspace" not in kinds and not any(_writes_spaces(entry) for entry in decoders):
        raise InvalidRequestError(
            f"structured output needs a byte-level or SentencePiece tokenizer; this model's decodes by "
            f"{', '.join(sorted(str(kind) for kind in kinds))}"
        )
    table = [b""] * vocabulary
    unknown = description["model"].get("unk_token")
    for token, index in tokenizer.get_vocab(with_added_tokens=True).items():
        if index >= vocabulary or index in eos_token_ids or token == unknown:
            continue
        if index in added:
            table[index] = b"" if _controls(added[index]) else token.encode()
        elif byte_level:
            table[index] = bytes(byte_of[character] for character in token if character in byte_of)
        elif "ByteFallback" in kinds and len(token) == 6 and token.startswith("<0x"):
            table[index] = bytes([int(token[3:5], 16)])
        else:
            table[index] = token.replace(SPACE_MARK, " ").encode()
    missing = _UTF8_BYTES - {text[0] for text in table if len(text) == 1}
    if missing:
        raise InvalidRequestError(
            f"structured output needs a token for every byte, that any text can be written; this model's tokenizer has "
            f"none for {len(missing)} of {len(_UTF8_BYTES)}, among them 0x{min(missing):02X}"
        )
    return TokenBytes(tuple(table), not byte_level and _strips_first_space(tokenizer, table))


def _controls(added: dict[str, Any]) -> bool:
    """Whether an added token is no text: special, or named in brackets as tool and role markers are."""
    content = str(added["content"])
    return bool(added["special"]) or (content.startswith("<") and content.endswith(">"))


def _writes_spaces(decoder: dict[str, Any]) -> bool:
    pattern = decoder.get("pattern")
    return decoder.get("type") == "Replace" and isinstance(pattern, dict) and pattern.get("String") == SPACE_MARK


def _strips_first_space(tokenizer: Tokenizer, table: list[bytes]) -> bool:
    for token, spelled in enumerate(table):
        if spelled.startswith(b" ") and spelled[1:].isalpha():
            return not tokenizer.decode([token]).startswith(" ")
    return False


def _without_prefix(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, without the space that a SentencePiece tokenizer puts before every text."""
    description = json.loads(tokenizer.to_str())
    description["normalizer"] = _without_prepend(description.get("normalizer"))
    for step in _steps(description.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "Metaspace":
            step["prepend_scheme"] = "never"
        elif step.get("type") == "ByteLevel":
            step["add_prefix_space"] = False
    description["post_processor"] = description["padding"] = description["truncation"] = None
    description["added_tokens"] = [entry for entry in description.get("added_tokens", ()) if not _controls(entry)]
    return Tokenizer.from_str(json.dumps(description))


def _without_prepend(normalizer: dict[str, Any] | None) -> dict[str, Any] | None:
    if normalizer is None or normalizer.get("type") == "Prepend":
        return None
    if normalizer.get("type") == "Sequence":
        kept = [_without_prepend(entry) for entry in normalizer["normalizers"]]
        return normalizer | {"normalizers": [entry for entry in kept if entry is not None]}
    return normalizer


def _steps(step: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return list(step.get(key, [step]))
