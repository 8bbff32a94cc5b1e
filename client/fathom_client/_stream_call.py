"""One of gRPC's calls whose responses a thread reads as they come."""

import os
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
        self._process = os.getpid()
        self._is_torn = False  # an interrupt may have taken an event with it, which would be waited for in vain

    def read(self) -> Any:
        """Wait for the next response; None at the end. Raises grpc.RpcError where the call has failed."""
        with self._reading:
            try:
                return next(self._call, None)
            except grpc.RpcError:
                self._take_rest()
                raise
            except BaseException:
                self._is_torn = True
                raise

    def cancel(self) -> None:
        """End the call; who reads it meanwhile gets an error."""
        self._call.cancel()
        if self._reading.acquire(blocking=False):  # else the reader is woken, and takes the rest
            try:
                self._take_rest()
            finally:
                self._reading.release()

    def _take_rest(self) -> None:
        """Take the events of the ended call that nobody has taken; none is waited for that is not about to come."""
        take = getattr(self._call, "_consume_next_event", None)  # gRPC has no public name for it
        if take is None or self._is_torn or os.getpid() != self._process:
            return
        try:
            while self._call._state.due:
                take()
        except BaseException:
            self._is_torn = True
            raise
