"""How many requests wait for an encoder, so that its tokenizer can refuse more.

Triton's own bound (``max_queue_size``) makes its batcher sleep between batches, as ``add_dynamic_batching`` in
``fathom_export.repository.model_config`` tells, so the bound is held here, one step before. Export copies this file
beside an encoder's tokenizer model.
"""

import http.client
import os
import re
import threading
import time
from typing import Final

ADDRESS_VARIABLE: Final = "FATHOM_METRICS_ADDRESS"
"""host:port of Triton's metrics, which ``fathom-serve`` tells its models."""

_DEFAULT_ADDRESS: Final = "127.0.0.1:8002"
_GAUGE: Final = "nv_inference_pending_request_count"
_LOOK_S: Final = 0.05
"""Seconds between two looks, at least."""
_TIMEOUT_S: Final = 2.0


class EncoderBacklog:
    """An estimate of the requests that wait: Triton's gauge at the last look, and all that were admitted since.

    Nobody looks while less than half of ``most`` can wait. Where Triton gives no metrics nothing is refused.
    """

    def __init__(self, encoder: str, most: int) -> None:
        self._most = most
        self._gauge = re.compile(rf'^{_GAUGE}{{[^}}]*\bmodel="{re.escape(encoder)}"[^}}]*}} (\S+)$', re.MULTILINE)
        self._address = os.environ.get(ADDRESS_VARIABLE, _DEFAULT_ADDRESS)
        self._lock = threading.Lock()
        self._waiting = 0
        self._admitted = 0
        self._stale = threading.Event()
        self._ended = False
        self._watcher = threading.Thread(target=self._watch, name="encoder-backlog", daemon=True)
        self._watcher.start()

    def admit(self) -> bool:
        """Count one more request in; False if as many wait as may."""
        with self._lock:
            is_admitted = self._waiting < self._most
            if is_admitted:
                self._waiting += 1
                self._admitted += 1
            if self._waiting * 2 > self._most:
                self._stale.set()
        return is_admitted

    def close(self) -> None:
        """End the watcher."""
        self._ended = True
        self._stale.set()
        self._watcher.join(_TIMEOUT_S)

    def _watch(self) -> None:
        while True:
            self._stale.wait()
            if self._ended:
                return
            self._stale.clear()
            with self._lock:
                admitted = self._admitted
            waiting = self._look()
            with self._lock:
                self._waiting = waiting + self._admitted - admitted
            time.sleep(_LOOK_S)

    def _look(self) -> int:
        """Triton's gauge; 0 where it cannot be read."""
        connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", "/metrics")
            found = self._gauge.findall(connection.getresponse().read().decode("utf-8", errors="replace"))
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()
        return int(sum(map(float, found)))
