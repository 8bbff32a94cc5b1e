"""Finds out which callers have left: Triton knows, but tells nobody by itself."""

import threading
from collections.abc import Callable
from typing import Final

from fathom_server.backends.fathom.transport import TritonTransport
from fathom_server.engine.engine import Engine
from fathom_server.engine.request import Request

_WATCH_INTERVAL_S: Final = 0.01
_WATCH_INTERVAL_EACH_S: Final = 0.001
"""A question costs a message to Triton's own process: the more there are to ask, the rarer the rounds."""


class WatchedRequest:
    """A request in the engine and the transport that knows whether its caller is still there."""

    def __init__(self, transport: TritonTransport) -> None:
        self.transport = transport
        self.request: Request | None = None


class CancellationWatch:
    """Asks Triton, request by request, whether the caller has left.

    ``on_tick`` is called after every round of questions for as long as there are requests, and once after the last.
    """

    def __init__(self, engine: Engine, on_tick: Callable[[], None]) -> None:
        self._engine = engine
        self._on_tick = on_tick
        self._changed = threading.Condition()
        self._watched: set[WatchedRequest] = set()
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
                self._watched.add(watched)
            self._tick_is_due = True
            self._changed.notify()

    def remove(self, watched: WatchedRequest) -> None:
        """Stop watching; its answer is complete."""
        with self._changed:
            if watched in self._watched:
                self._watched.discard(watched)
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
                watched = list(self._watched)
            for one in watched:
                if one.request is not None and not one.request.cancelled and one.transport.is_cancelled():
                    self._engine.cancel(one.request)
            self._on_tick()
            with self._changed:
                pause_s = _WATCH_INTERVAL_S + _WATCH_INTERVAL_EACH_S * len(watched)
                self._changed.wait_for(lambda: self._closing or not self._watched, pause_s)
