"""Makes this process cooperative: gevent under the standard library and under gRPC, before anything uses them."""

import os
import sys
from importlib.metadata import version
from typing import Final

from fathom_loadtest.errors import LoadTestError

_POLLING_THREADS: Final = 4096
"""gRPC waits for each busy channel's events on a thread of gevent's pool, for up to 200 ms at a time.

With the pool's usual ten, the eleventh user's first token was noted tens of milliseconds late. Threads begin as needed.
"""

_EXPERIMENTS: Final = "-event_engine_client"
"""Without the threads by which gRPC reads all sockets since 1.80, the one that waits for a channel's events reads its
socket itself: one hand-over less between the wire and the time that is noted. ``GRPC_EXPERIMENTS`` goes before it."""
_KNOWN_UP_TO: Final = (1, 85)
"""The last gRPC that was seen to know the name; one that does not would say so on stderr in every run."""


def make_cooperative() -> None:
    """Patch the standard library, then gRPC; nothing else may have loaded gRPC before.

    A gRPC call blocks the whole event loop, and with it every other user, unless gRPC knows of gevent when its first
    channel is made. Raises LoadTestError where it is too late.
    """
    if "grpc" in sys.modules:
        raise LoadTestError("gRPC was loaded before gevent; start the load test in a process of its own (fathom-load)")
    if tuple(map(int, version("grpcio").split(".")[:2])) <= _KNOWN_UP_TO:
        os.environ.setdefault("GRPC_EXPERIMENTS", _EXPERIMENTS)
    from gevent import monkey

    monkey.patch_all()
    from gevent import get_hub

    get_hub().threadpool.maxsize = _POLLING_THREADS
    from grpc.experimental.gevent import init_gevent

    init_gevent()
