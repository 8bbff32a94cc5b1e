"""One of gRPC's calls whose responses a thread reads as they come."""

import threading
from typing import Any

import grpc


class StreamCall:
    """A call with a stream of responses, read by one thread at a time; ``cancel`` may come from another.

    Where the reader takes a call's events itself (``_channel.py``), grpcio 1.85 keeps some 20 KiB for ever of each call
    that ends before all of them were taken, as a cancelled one does. So they are taken here.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._reading = threading.Lock()

    def read(self) -> Any:
        """Wait for the next response; None at the end. Raises grpc.RpcError where the call has failed."""
        with self._reading:
            try:
                return next(self._call, None)
            except grpc.RpcError:
                _take_rest(self._call)
                raise

    def cancel(self) -> None:
        """End the call; who reads it meanwhile gets an error."""
        self._call.cancel()
        if self._reading.acquire(blocking=False):  # else the reader is woken, and takes the rest
            try:
                _take_rest(self._call)
            finally:
                self._reading.release()


def _take_rest(call: Any) -> None:
    """Take the events of an ended call that nobody has taken; none is waited for that is not about to come."""
    take = getattr(call, "_consume_next_event", None)
    while take is not None and call._state.due:  # gRPC has no public name for it
        take()
