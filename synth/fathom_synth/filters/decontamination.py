"""Held-out texts: what will be asked in an examination may not be in the training data."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fathom_synth.candidate import Candidate
from fathom_synth.errors import SeedError
from fathom_synth.filters.settings import DecontaminationSettings
from fathom_synth.filters.text import words_of
from fathom_synth.rows_file import MalformedRow, read_rows


class DecontaminationFilter:
    """Drops rows that share an n-gram of words with a held-out text.

    A held-out text of fewer words is matched as a whole, with what the user says. Raises SeedError where a held-out
    file cannot be read whole: half an examination is none.
    """

    def __init__(self, settings: DecontaminationSettings) -> None:
        self._ngram = settings.ngram
        self._grams: set[bytes] = set()
        self._short: set[bytes] = set()
        for path in settings.held_out:
            for text in held_out_texts(path, settings.fields):
                words = words_of(text)
                if len(words) >= self._ngram:
                    self._grams.update(self._hashes(words))
                elif words:
                    self._short.add(_hash(words))

    async def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """``held-out text`` or ``held-out question``."""
        return [self._reason(candidate) for candidate in candidates]

    def _reason(self, candidate: Candidate) -> str | None:
        asked = words_of(candidate.prompt.user)
        if asked and _hash(asked) in self._short:
            return "held-out question"
        for words in (asked, words_of(candidate.sample.text)):
            if not self._grams.isdisjoint(self._hashes(words)):
                return "held-out text"
        return None

    def _hashes(self, words: Sequence[str]) -> Iterator[bytes]:
        return (_hash(words[place : place + self._ngram]) for place in range(len(words) - self._ngram + 1))


def held_out_texts(path: Path, fields: Sequence[str] | None) -> Iterator[str]:
    """Every text in a held-out file's rows, or in these columns of them. Raises SeedError."""
    found = False
    for row in read_rows(path):
        if isinstance(row, MalformedRow):
            raise SeedError(f"{path}:{row.line}: {row.reason}; mend it, for a held-out set must be whole")
        if fields is not None:
            missing = [name for name in fields if name not in row.columns]
            if missing:
                raise SeedError(f"{path}:{row.line}: has no {missing[0]!r}; it has {', '.join(row.columns)}")
        for text in _texts(row.columns if fields is None else {name: row.columns[name] for name in fields}):
            found = True
            yield text
    if not found:
        raise SeedError(f"{path}: holds no text; name a held-out set")


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _hash(words: Sequence[str]) -> bytes:
    return hashlib.blake2b("\0".join(words).encode("utf-8", errors="surrogatepass"), digest_size=8).digest()
