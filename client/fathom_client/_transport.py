"""What carries a client's calls, where it is not gRPC's own connection."""

from typing import Protocol

import grpc
from grpc import aio


class Transport(Protocol):
    """Opens channels in place of gRPC; ``fathom_client.testing.MemoryTransport`` is one."""

    def open(self, url: str) -> grpc.Channel:
        """Open a channel for ``Client``, to the server at ``url``."""

    def open_async(self, url: str) -> aio.Channel:
        """Open a channel for ``AsyncClient``, to the server at ``url``."""
