"""Requests by when they are late: for the whole answer, and for their turn."""

import heapq
from collections.abc import Iterator

from fathom_server.engine.request import NO_DEADLINE, Request


class Deadlines:
    """Owned by the engine's thread. Instants are ``time.monotonic()``'s, in seconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []

    def add(self, request: Request) -> None:
        """Watch a request's deadlines."""
        for deadline in (request.deadline, request.queue_deadline):
            if deadline < NO_DEADLINE:
                heapq.heappush(self._heap, (deadline, request.arrival, request))

    def passed(self, now: float) -> Iterator[Request]:
        """Take out the requests one of whose deadlines has passed; some of them have ended, or met the one."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]
