"""Trying a request again: how often and after which pause, a value."""

import random
from dataclasses import dataclass

from fathom_client._options import check_integer
from fathom_client._timeouts import check_seconds
from fathom_client.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class Retry:
    """How a request that no server took is tried again, as long as nothing of its answer has arrived.

    Only UNAVAILABLE is tried again: a server that is away or stopping, or whose queue is full. ``attempts`` is how
    often it is tried in all, at least 2. Before attempt k there is a pause of random length between nothing and
    ``first_pause_s`` x 2^(k - 2), at most ``longest_pause_s`` ("full jitter", AWS Architecture Blog, 2015, Exponential
    Backoff And Jitter). A server that says how long to wait (gRPC's ``grpc-retry-pushback-ms``) is obeyed. No attempt
    begins after the request's own time limit. Raises InvalidArgumentError.
    """

    attempts: int = 3
    first_pause_s: float = 0.2
    longest_pause_s: float = 5.0

    def __post_init__(self) -> None:
        check_integer("retry.attempts", self.attempts, 2, 100)
        check_seconds("retry.first_pause_s", self.first_pause_s)
        check_seconds("retry.longest_pause_s", self.longest_pause_s)
        if self.longest_pause_s < self.first_pause_s:
            raise InvalidArgumentError(
                f"retry.longest_pause_s is {self.longest_pause_s:g}, below retry.first_pause_s "
                f"({self.first_pause_s:g}); give a longer one"
            )

    def pause_s(self, attempt: int) -> float:
        """Draw the pause before attempt ``attempt`` (2 is the first one that has a pause)."""
        # The exponent is bounded: 2 ** 98 seconds would still be a float, but nobody's pause.
        most_s = min(self.longest_pause_s, self.first_pause_s * 2 ** min(attempt - 2, 32))
        return random.uniform(0.0, most_s)  # noqa: S311 # spreads callers, guards no secret
