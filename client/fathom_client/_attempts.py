"""One request and the servers that it is tried on: shared by both kinds of client, without I/O."""

import math
import time

from fathom_client._endpoints import Endpoint, EndpointPool
from fathom_client._retry import Retry
from fathom_client._status import may_be_tried_again
from fathom_client.errors import FathomError, OverloadedError, ServerUnavailableError


class Attempts:
    """Where a request is tried now, whether it is tried again, and after which pause.

    A server that is away, stopping or full is passed over for the next one at once; when all have been asked, ``retry``
    says whether and when another round begins. Only UNAVAILABLE is tried again, and what Triton says of a model that it
    has unloaded in order to stop; never past ``deadline_s`` (``time.monotonic``). Whoever makes one must call
    ``release`` in the end.
    """

    __slots__ = ("_deadline_s", "_is_held", "_pool", "_retry", "_rounds", "_tried", "endpoint", "number")

    def __init__(self, pool: EndpointPool, retry: Retry | None, deadline_s: float | None) -> None:
        self._pool = pool
        self._retry = retry
        self._deadline_s = deadline_s
        self._rounds = 1
        self._tried: list[Endpoint] = []
        self.number = 1
        self.endpoint = pool.acquire() or pool.endpoints[0]
        self._is_held = True

    def left_s(self) -> float | None:
        """Seconds until the time limit, None without one."""
        return None if self._deadline_s is None else self._deadline_s - time.monotonic()

    def succeeded(self) -> None:
        """Note that the server took the request."""
        self._pool.recovered(self.endpoint)

    def pause_before_next(self, failure: FathomError) -> float | None:
        """Note a failure, and move on: the seconds to wait before the next attempt on ``endpoint``; None for none."""
        if not may_be_tried_again(failure):
            return None
        if isinstance(failure, ServerUnavailableError) and not isinstance(failure, OverloadedError):
            self._pool.failed(self.endpoint)
        pause_s = self._move_on(failure)
        left_s = self.left_s()
        if pause_s is None or (left_s is not None and pause_s >= left_s):
            return None
        self.number += 1
        return pause_s

    def lost(self) -> None:
        """Note that the server went away in the middle of an answer."""
        self._pool.failed(self.endpoint)

    def release(self) -> None:
        """Let go of the server; may be called again."""
        if self._is_held:
            self._is_held = False
            self._pool.release(self.endpoint)

    def _move_on(self, failure: FathomError) -> float | None:
        advice_s = getattr(failure, "retry_after_s", None)
        self._tried.append(self.endpoint)
        following = self._pool.acquire(self._tried)
        if following is not None:
            self._hold(following)
            return 0.0
        if self._retry is None or self._rounds >= self._retry.attempts or advice_s == math.inf:
            return None
        self._rounds += 1
        self._tried.clear()
        self._hold(self._pool.acquire() or self.endpoint)
        return self._retry.pause_s(self._rounds) if advice_s is None else float(advice_s)

    def _hold(self, endpoint: Endpoint) -> None:
        self.release()
        self.endpoint = endpoint
        self._is_held = True
