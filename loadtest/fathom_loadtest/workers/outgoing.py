"""What a worker recorded and has not sent to its master yet."""

import json
from collections.abc import Sequence
from typing import Any

from fathom_loadtest.metrics import StageTally
from fathom_loadtest.record import RequestRecord
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.scenario import Slo
from fathom_loadtest.workers import wire


class OutgoingRecorder(Recorder):
    """Collects records as lines of JSON and as tallies, until they are taken to be sent.

    ``shift_ns`` moves their times to the master's clock: what the master's clock showed when it opened the phase, less
    what this one's did when it opened here. Monotonic clocks of different hosts have nothing else in common.
    """

    def __init__(self, slos: Sequence[Slo] = ()) -> None:
        super().__init__(None, slos)
        self.shift_ns = 0
        self._lines: list[bytes] = []
        self._new: dict[str, StageTally] = {}

    def add(self, record: RequestRecord) -> None:
        """Keep one record."""
        moved = record.moved(self.shift_ns)
        self._lines.append(json.dumps(moved.to_json(), ensure_ascii=False).encode())
        if record.task not in self._new:
            self._new[record.task] = StageTally(self._slos)
        self._new[record.task].add(moved)

    def take(self) -> dict[str, Any] | None:
        """Give what is new, ready to be sent; None where nothing is."""
        if not self._lines:
            return None
        lines, self._lines = self._lines, []
        new, self._new = self._new, {}
        return {"lines": lines, "tallies": wire.tallies_message(new)}
