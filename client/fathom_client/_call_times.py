"""When requests left and responses came, without what building and reading them takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class CallTimes:
    """Times of an ``embed``, ``rerank`` or ``classify``, by ``time.perf_counter_ns``; 0 before they are known.

    ``sent_ns`` is when its first request was handed to gRPC, ``received_ns`` when its last response was there. A stream
    tells by itself (``sent_ns``).
    """

    sent_ns: int = 0
    received_ns: int = 0

    @contextmanager
    def use(self) -> Iterator[None]:
        """Note the times of the call that is made within the ``with`` block, in this thread or task."""
        token = _noting.set(self)
        try:
            yield
        finally:
            _noting.reset(token)


_noting: ContextVar[CallTimes | None] = ContextVar("fathom_client_call_times", default=None)


def note_sent() -> None:
    """Note that a request leaves now, if somebody wants to know."""
    times = _noting.get()
    if times is not None and not times.sent_ns:
        times.sent_ns = time.perf_counter_ns()


def note_received() -> None:
    """Note that a response is there, if somebody wants to know."""
    times = _noting.get()
    if times is not None:
        times.received_ns = time.perf_counter_ns()
