"""Masks computed on other threads while the model computes a step."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from fathom_server.engine.grammar.matcher import Matcher

Masks = npt.NDArray[np.int32]


class MaskJob:
    """Masks on their way."""

    def __init__(self, futures: "Sequence[Future[list[Masks]]]") -> None:
        self._futures = futures

    def wait(self) -> list[Masks]:
        """The masks of each matcher in the order given, int32 [rows, ceil(vocabulary / 32)].

        Row 0 is for the next token, row i for the one after the i-th draft; a draft that the grammar does not allow
        ends the rows. A matcher that has failed gives one row that allows nothing, and says why in ``error``.
        """
        shares = [future.result() for future in self._futures]
        return [shares[index % len(shares)][index // len(shares)] for index in range(sum(map(len, shares)))]


class MaskPool:
    """Threads that compute masks; the grammar library lets go of the interpreter while it works.

    Threads start with the first job and end with ``close``.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="fathom-masks")

    def start(self, matchers: Sequence[Matcher], drafts: Sequence[Sequence[int]]) -> MaskJob:
        """Begin to compute the masks of each matcher for its drafts; no matcher may advance before ``MaskJob.wait``."""
        work = list(zip(matchers, drafts, strict=True))
        shares = [share for first in range(self._threads) if (share := work[first :: self._threads])]
        return MaskJob([self._executor.submit(_masks, share) for share in shares])

    def close(self) -> None:
        """End the threads; what was started is finished first."""
        self._executor.shutdown()


def _masks(share: Sequence[tuple[Matcher, Sequence[int]]]) -> list[Masks]:
    filled = []
    for matcher, drafts in share:
        rows = np.empty((len(drafts) + 1, matcher.words), dtype=np.int32)
        filled.append(rows[: matcher.masks(drafts, rows)])
    return filled
