"""Work that waits until the event loop has nothing else to do."""

from collections import deque
from collections.abc import Callable
from typing import Final

import gevent

_PAUSE_S: Final = 0.002
"""The way of the request that was just sent to the server takes about as long: it is not to share its processor."""
MOST_WAITING: Final = 256
"""So many pieces of work wait at most: a loop that is never idle does them as they come, the oldest first."""


class SpareTime:
    """Work that nobody waits for, done in its order while the event loop is idle.

    What an answer leaves behind (its record, its line on disk) and what a request needs before it can be sent take
    longer than everything between an answer and the next request: done at once they hold up this user, and all others
    whose answers come meanwhile. ``failure`` is the first exception of a piece of work, kept for whoever asks.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._worker: gevent.Greenlet | None = None
        self.failure: Exception | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def do(self, work: Callable[[], None]) -> None:
        """Have something done soon, but for what needs doing now."""
        self._waiting.append(work)
        if len(self._waiting) > MOST_WAITING:
            self._do_oldest()
        elif self._worker is None:
            self._worker = gevent.spawn(self._work)

    def finish(self) -> None:
        """Do now whatever waits."""
        while self._waiting:
            self._do_oldest()

    def _work(self) -> None:
        gevent.sleep(_PAUSE_S)
        while self._waiting:
            gevent.idle()
            self._do_oldest()
        self._worker = None

    def _do_oldest(self) -> None:
        if not self._waiting:
            return
        try:
            self._waiting.popleft()()
        except Exception as error:  # handed on: gevent would print it, and the run would go on without its records
            self.failure = self.failure or error
