"""The servers that a client may ask: which gets the next request, which is left out, and which is asked how it is."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final

_FIRST_EJECTION_S: Final = 0.5
_LONGEST_EJECTION_S: Final = 30.0


class Endpoint:
    """One server: how many requests it has now, and whether it is left out for its failures."""

    __slots__ = ("due_s", "failures", "index", "is_probed", "outstanding", "url")

    def __init__(self, index: int, url: str) -> None:
        self.index = index
        self.url = url
        self.outstanding = 0
        self.failures = 0
        self.due_s = 0.0
        self.is_probed = False

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, outstanding={self.outstanding}, failures={self.failures})"

    @property
    def is_healthy(self) -> bool:
        """Whether it took its last request, or said since that it is ready."""
        return self.failures == 0


class EndpointPool:
    """Chooses among servers; shared by threads, and the same for both kinds of client: it knows no gRPC.

    A request goes to the healthy server with the fewest requests of this client, in turn among equals. A server that
    fails is left out until a question for its readiness, asked half a second later and then ever more seldom, finds it
    ready. Where none is healthy, all are tried: a client that is too careful would fail what might go through.
    """

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.endpoints = tuple(Endpoint(index, url) for index, url in enumerate(urls))
        self._clock = clock
        self._turn = 0
        self._lock = threading.Lock()
        self._left: deque[Endpoint] = deque()

    def acquire(self, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """Choose a server for a request, which holds it until ``release``; None where all that may be are ``tried``."""
        if len(self.endpoints) == 1:
            return None if tried else self.endpoints[0]
        with self._lock:
            self._count_leavers()
            healthy = [each for each in self.endpoints if each.is_healthy]
            candidates = [each for each in healthy or self.endpoints if each not in tried]
            if not candidates:
                return None
            size = len(self.endpoints)
            chosen = min(candidates, key=lambda each: (each.outstanding, (each.index - self._turn) % size))
            self._turn = chosen.index + 1
            chosen.outstanding += 1
            return chosen

    def release(self, endpoint: Endpoint) -> None:
        """Let go of a server that was acquired. Takes no lock: the garbage collector may call it anywhere."""
        if len(self.endpoints) > 1:
            self._left.append(endpoint)

    def failed(self, endpoint: Endpoint) -> None:
        """Leave a server out that did not take a request, or is not ready."""
        with self._lock:
            endpoint.is_probed = False
            pause_s = min(_LONGEST_EJECTION_S, _FIRST_EJECTION_S * 2 ** min(endpoint.failures, 16))
            if self._clock() >= endpoint.due_s:  # requests that fail together are one failure
                endpoint.failures += 1
                endpoint.due_s = self._clock() + pause_s

    def recovered(self, endpoint: Endpoint) -> None:
        """Take a server back."""
        if endpoint.failures or endpoint.is_probed:
            with self._lock:
                endpoint.failures = 0
                endpoint.due_s = 0.0
                endpoint.is_probed = False

    def due(self) -> list[Endpoint]:
        """Servers to ask now whether they are ready; whoever calls must tell ``recovered`` or ``failed`` of each."""
        if len(self.endpoints) == 1 or all(each.is_healthy for each in self.endpoints):
            return []
        with self._lock:
            now_s = self._clock()
            found = [each for each in self.endpoints if each.failures and not each.is_probed and each.due_s <= now_s]
            for each in found:
                each.is_probed = True
            return found

    def _count_leavers(self) -> None:
        while self._left:
            self._left.popleft().outstanding -= 1
