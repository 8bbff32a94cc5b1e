"""Lanes: one model's weights in two precisions, side by side over one KV cache, and who goes where.

A sequence stays in its lane to its end, since another precision would go on with keys and values that it would not have
computed itself.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from fathom_server.errors import InvalidRequestError

MAIN: Final = 0
FAST: Final = 1
"""Reads fewer bytes a step, which is what one sequence waits for; computes more for each of many."""

FEW: Final = 4
"""So many sequences at most go to the fast lane whatever runs now."""
MANY: Final = 12
"""So many at least go to the main lane whatever runs now; on the way from one to the other both are computed."""


class Lanes:
    """The lanes of a runner, by the names of their precisions; one or two."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def pinned(self, precision: str | None) -> int | None:
        """The lane that a request asks for; None if it asks for none. Raises InvalidRequestError for a strange one."""
        if precision is None:
            return None
        if precision not in self.names:
            raise InvalidRequestError(
                f"precision is {precision!r}, which this server does not have; valid: {', '.join(self.names)}, or "
                "leave it out"
            )
        return self.names.index(precision)

    def is_crowded(self, demand: int) -> bool:
        """Whether so many sequences, running and waiting, belong into the main lane, and there is another."""
        return len(self.names) > 1 and demand >= MANY

    def choose(self, running: Iterable[int], waiting: int) -> int:
        """The lane for a sequence that is about to start.

        ``running`` are the lanes of all that run, ``waiting`` counts those that wait, this one among them. Few go where
        one is fast, many where many are; between the two a newcomer joins the lane that most are in, so that a step
        reads one set of weights.
        """
        if len(self.names) == 1:
            return MAIN
        lanes = list(running)
        demand = len(lanes) + waiting
        if demand <= FEW:
            return FAST
        if self.is_crowded(demand):
            return MAIN
        return MAIN if 2 * lanes.count(MAIN) > len(lanes) else FAST
