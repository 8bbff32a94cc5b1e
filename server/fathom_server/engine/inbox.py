"""Between callers' threads and the engine's: what has come, who has left, and how many requests are under way."""

import threading

from fathom_server.engine.request import Request
from fathom_server.errors import QueueFullError, ShuttingDownError


class Inbox:
    """Takes requests and cancellations from any thread and hands them to the engine's, which alone calls ``take``.

    At most ``max_batch`` requests, which run, and ``max_queue``, which wait, are under way.
    """

    def __init__(self, max_batch: int, max_queue: int) -> None:
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._changed = threading.Condition()
        self._arrived: list[Request] = []
        self._cancelled: list[Request] = []
        self._arrivals = 0
        self._under_way = 0
        self._closed = False

    @property
    def under_way(self) -> int:
        """Requests that came and have not ended."""
        with self._changed:
            return self._under_way

    def put(self, request: Request) -> None:
        """Number a request by its arrival and hand it over.

        Raises QueueFullError when ``max_queue`` requests wait, and ShuttingDownError after ``close``.
        """
        with self._changed:
            if self._closed:
                raise ShuttingDownError("the server is shutting down; send the request to another")
            if self._under_way >= self._max_batch + self._max_queue:
                raise QueueFullError(
                    f"the queue is full ({self._max_batch} requests run, {self._max_queue} wait); try again later"
                )
            self._under_way += 1
            self._arrivals += 1
            request.arrival = self._arrivals
            self._arrived.append(request)
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """Tell the engine that a request's caller has left."""
        with self._changed:
            request.cancelled = True
            self._cancelled.append(request)
            self._changed.notify()

    def take(self, *, waits: bool) -> tuple[list[Request], list[Request]] | None:
        """What has come and what was cancelled since the last call; None once it is closed.

        With ``waits`` it does not return before there is either.
        """
        with self._changed:
            while waits and not (self._closed or self._arrived or self._cancelled):
                self._changed.wait()
            if self._closed:
                return None
            arrived, self._arrived = self._arrived, []
            cancelled, self._cancelled = self._cancelled, []
            return arrived, cancelled

    def leave(self) -> None:
        """Count a request that has ended."""
        with self._changed:
            self._under_way -= 1

    def close(self) -> None:
        """Take no more, and wake the engine's thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def left_over(self) -> list[Request]:
        """Requests that nobody has taken."""
        with self._changed:
            return list(self._arrived)
