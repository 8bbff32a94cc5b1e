"""Who runs, who waits, who is refused: a bounded number of slots behind a bounded queue, first come, first served."""

import threading
from typing import Generic, TypeVar

from fathom_loadtest.errors import RefusedRequest

Waiter = TypeVar("Waiter")


class Admission(Generic[Waiter]):
    """``max_batch`` run at once, ``max_queue`` wait; safe to use from any thread."""

    def __init__(self, max_batch: int, max_queue: int) -> None:
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._lock = threading.Lock()
        self._running: set[Waiter] = set()
        self._waiting: dict[Waiter, None] = {}  # in order

    def enter(self, one: Waiter) -> bool:
        """Take one in; whether it runs at once. Raises RefusedRequest (UNAVAILABLE) where the queue is full."""
        with self._lock:
            if len(self._running) < self._max_batch:
                self._running.add(one)
                return True
            if len(self._waiting) >= self._max_queue:
                raise RefusedRequest(
                    "UNAVAILABLE",
                    f"the queue is full ({self._max_batch} requests run, {self._max_queue} wait); try again later",
                )
            self._waiting[one] = None
            return False

    def leave(self, one: Waiter) -> Waiter | None:
        """Let one go, wherever it stands; gives the one that runs in its place."""
        with self._lock:
            if one in self._waiting:
                del self._waiting[one]
                return None
            self._running.discard(one)
            if not self._waiting or len(self._running) >= self._max_batch:
                return None
            following = next(iter(self._waiting))
            del self._waiting[following]
            self._running.add(following)
            return following

    def load(self) -> tuple[int, int]:
        """Give how many run and how many wait."""
        with self._lock:
            return len(self._running), len(self._waiting)
