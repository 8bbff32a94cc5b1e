"""Finds out which callers have left: Triton knows, but tells nobody by itself.

A question costs a message to Triton's own process. So those whose requests run are asked in every round, and of those
that wait only a few, in turn: a long queue takes no time from the cores that compute.
"""

import threading
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Final

from fathom_server.backends.fathom.served_engine import ServedEngine
from fathom_server.engine.request import Request

if TYPE_CHECKING:
    from fathom_server.backends.fathom.transport import TritonTransport

_WATCH_INTERVAL_S: Final = 0.01
_WATCH_INTERVAL_EACH_S: Final = 0.001
"""For each question of the round: the more there are to ask, the rarer the rounds."""
_WAITING_A_ROUND: Final = 16


class WatchedRequest:
    """A request in the engine and the transport that knows whether its caller is still there."""

    def __init__(self, transport: "TritonTransport") -> None:
        self.transport = transport
        self.request: Request | None = None


class CancellationWatch:
    """Asks Triton, request by request, whether the caller has left.

    ``on_tick`` is called after every round of questions for as long as there are requests, and once after the last.
    """

    def __init__(self, engine: ServedEngine, on_tick: Callable[[], None]) -> None:
        self._engine = engine
        self._on_tick = on_tick
        self._changed = threading.Condition()
        self._watched: dict[WatchedRequest, None] = {}  # who waits is asked from its beginning on
        self._ended: set[WatchedRequest] = set()
        self._tick_is_due = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fathom-cancellation", daemon=True)
        self._thread.start()

    def add(self, watched: WatchedRequest) -> None:
        """Watch a request until it is removed; one that has ended already is not."""
        with self._changed:
            if watched in self._ended:
                self._ended.discard(watched)
            else:
                self._watched[watched] = None
            self._tick_is_due = True
            self._changed.notify()

    def remove(self, watched: WatchedRequest) -> None:
        """Stop watching; its answer is complete."""
        with self._changed:
            if watched in self._watched:
                del self._watched[watched]
            else:
                self._ended.add(watched)
            self._tick_is_due = True
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._watched or self._tick_is_due or self._closing):
                    self._changed.wait()
                if self._closing:
                    return
                self._tick_is_due = False
                asked = self._round()
            for one in asked:
                if one.request is not None and not one.request.cancelled and one.transport.is_cancelled():
                    self._engine.cancel(one.request)
            self._on_tick()
            with self._changed:
                pause_s = _WATCH_INTERVAL_S + _WATCH_INTERVAL_EACH_S * len(asked)
                self._changed.wait_for(lambda: self._closing or not self._watched, pause_s)

    def _round(self) -> list[WatchedRequest]:
        """Whom to ask now: all whose requests run, and the next of those that wait. Holds the lock."""
        running = {one for one in self._watched if one.request is not None and one.request.admitted is not None}
        waiting = list(islice((one for one in self._watched if one not in running), _WAITING_A_ROUND))
        for one in waiting:  # to the end of the line
            del self._watched[one]
            self._watched[one] = None
        return [*running, *waiting]
