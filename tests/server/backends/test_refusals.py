"""Refusals leave when Triton can bear them, in order, and none is lost."""

import threading
import time

from fathom_client import protocol
from fathom_server.backends.fathom.refusals import Refusals
from fathom_server.errors import InvalidRequestError, RequestError


class Wire:
    """Where one refusal goes: it remembers when; a broken one refuses it."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.put_s = time.monotonic()
        self.sent_s = 0.0
        self.error: RequestError | None = None
        self.arrived = threading.Event()
        self._is_broken = is_broken

    def fail(self, error: RequestError) -> None:
        self.sent_s, self.error = time.monotonic(), error
        self.arrived.set()
        if self._is_broken:
            raise ConnectionError("nobody is there")


def test_no_refusal_leaves_before_its_time() -> None:
    """Each waits as long as Triton needs; one that cannot be sent holds up no other; closing sends what is left."""
    refusals, wires = Refusals(), []
    for number in range(20):
        wires.append(Wire(is_broken=number % 3 == 0))
        refusals.put(wires[-1], InvalidRequestError(f"wrong {number}"))  # type: ignore[arg-type]
        time.sleep(0.0005)
    refusals.close()
    assert all(wire.arrived.is_set() for wire in wires)
    assert [str(wire.error) for wire in wires] == [f"wrong {number}" for number in range(20)]
    assert all(wire.sent_s - wire.put_s >= protocol.REFUSE_AFTER_S for wire in wires)
    assert sorted(wire.sent_s for wire in wires) == [wire.sent_s for wire in wires]
