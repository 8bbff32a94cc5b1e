"""Refusals leave a moment after their requests came: ``protocol.REFUSE_AFTER_S`` says why."""

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from fathom_client import protocol
from fathom_server.errors import RequestError

if TYPE_CHECKING:
    from fathom_server.backends.fathom.transport import TritonTransport

logger: Final = logging.getLogger("fathom.backend")

REFUSE_AFTER_S: Final = protocol.REFUSE_AFTER_S


class Refusals:
    """Sends refusals on a thread of its own, ``REFUSE_AFTER_S`` after they were put here."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[float, TritonTransport, RequestError]] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fathom-refusals", daemon=True)
        self._thread.start()

    def put(self, transport: "TritonTransport", error: RequestError) -> None:
        """Refuse a request that has just come."""
        with self._changed:
            self._waiting.append((time.monotonic() + REFUSE_AFTER_S, transport, error))
            self._changed.notify()

    def close(self) -> None:
        """Send what waits, then end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                due, transport, error = self._waiting.popleft()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                transport.fail(error)
            except Exception:  # a broken transport must not end the thread that refuses the others
                logger.exception("a refusal could not be sent")
