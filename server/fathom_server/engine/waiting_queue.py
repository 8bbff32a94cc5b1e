"""Requests that wait: by priority, then fairly among clients, then in the order in which they came.

Fairness is the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): of the
clients that wait, the one that was given the fewest tokens goes first; one that comes back starts no lower than
the others stand.
"""

from collections import deque
from collections.abc import Iterator

from fathom_server.engine.request import Request


class WaitingQueue:
    """Owned by the engine's thread."""

    def __init__(self) -> None:
        self._levels: dict[int, dict[str, deque[Request]]] = {}
        self._served: dict[str, float] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __contains__(self, request: object) -> bool:
        return isinstance(request, Request) and request in self._levels.get(request.priority, {}).get(
            request.client, ()
        )

    def __iter__(self) -> Iterator[Request]:
        for clients in self._levels.values():
            for queue in clients.values():
                yield from queue

    def push(self, request: Request) -> None:
        """Add a request behind the others of its client."""
        if not self._waits(request.client):
            # what a client did not ask for while it was away is not owed to it
            floor = min((self._served[other] for other in self._clients()), default=0.0)
            self._served[request.client] = max(self._served.get(request.client, 0.0), floor)
        self._levels.setdefault(request.priority, {}).setdefault(request.client, deque()).append(request)
        self._length += 1

    def first(self) -> Request | None:
        """The request whose turn it is."""
        if not self._levels:
            return None
        clients = self._levels[min(self._levels)]
        return clients[min(clients, key=lambda client: (self._served[client], clients[client][0].arrival))][0]

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it stands."""
        clients = self._levels[request.priority]
        clients[request.client].remove(request)
        self._length -= 1
        if not clients[request.client]:
            del clients[request.client]
        if not clients:
            del self._levels[request.priority]
        if not self._levels:
            self._served.clear()

    def charge(self, client: str, tokens: int) -> None:
        """Count tokens that a client was given."""
        if client in self._served:
            self._served[client] += tokens

    def _waits(self, client: str) -> bool:
        return any(client in clients for clients in self._levels.values())

    def _clients(self) -> Iterator[str]:
        for clients in self._levels.values():
            yield from clients
