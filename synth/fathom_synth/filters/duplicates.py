"""Duplicates: the same text, and nearly the same text. The first of each kind stays."""

import hashlib
from collections.abc import Sequence
from typing import Any

from fathom_synth.candidate import Candidate
from fathom_synth.filters.settings import DuplicatesSettings, NearDuplicatesSettings
from fathom_synth.filters.text import normalise


class DuplicatesFilter:
    """Drops what came before, letter for letter after normalisation. Keeps 16 bytes a row in memory."""

    def __init__(self, settings: DuplicatesSettings) -> None:
        self._over = settings.over
        self._seen: set[bytes] = set()

    async def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """``came before``."""
        return [self._reason(candidate) for candidate in candidates]

    def _reason(self, candidate: Candidate) -> str | None:
        text = normalise(candidate.part(self._over)).encode("utf-8", errors="surrogatepass")
        known = hashlib.blake2b(text, digest_size=16).digest()
        if known in self._seen:
            return "came before"
        self._seen.add(known)
        return None


class NearDuplicatesFilter:
    """Drops what resembles an earlier row: MinHash over shingles of characters (Broder 1997), found by LSH.

    datasketch keeps an index in memory: about ``permutations`` x 8 bytes a row, and as much again for its buckets.
    """

    def __init__(self, settings: NearDuplicatesSettings) -> None:
        from datasketch import MinHashLSH

        self._settings = settings
        self._index = MinHashLSH(threshold=settings.threshold, num_perm=settings.permutations)
        self._sketches: dict[str, Any] = {}

    async def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """``resembles another``."""
        return [self._reason(candidate) for candidate in candidates]

    def _reason(self, candidate: Candidate) -> str | None:
        from datasketch import MinHash

        sketch = MinHash(num_perm=self._settings.permutations, seed=1)
        sketch.update_batch(shingles(candidate.part(self._settings.over), self._settings.shingle))
        nearest = max((sketch.jaccard(self._sketches[each]) for each in self._index.query(sketch)), default=0.0)
        if nearest >= self._settings.threshold:
            return "resembles another"
        self._index.insert(candidate.id, sketch)
        self._sketches[candidate.id] = sketch
        return None


def shingles(text: str, size: int) -> list[bytes]:
    """The distinct runs of ``size`` characters of a text, normalised; of a shorter text, itself."""
    even = normalise(text)
    runs = {even[place : place + size] for place in range(max(1, len(even) - size + 1))}
    return [run.encode("utf-8", errors="surrogatepass") for run in sorted(runs)]
