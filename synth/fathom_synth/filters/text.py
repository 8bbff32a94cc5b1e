"""Texts made comparable: one form of the same characters, and words in any script."""

import re
import unicodedata
from typing import Final

_SPACED_BY_NOTHING: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
"""Thai, Lao, Burmese, Khmer, kana and Han: scripts that write no space between words."""
_WORD: Final = re.compile(rf"[{_SPACED_BY_NOTHING}]|[^\W{_SPACED_BY_NOTHING}]+")


def normalise(text: str) -> str:
    """Unicode's NFKC, without case, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words_of(text: str) -> list[str]:
    """The words of a text; where a script writes no spaces, its characters."""
    return _WORD.findall(normalise(text))
