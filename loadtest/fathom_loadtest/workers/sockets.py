"""Locust's sockets with CurveZMQ under them, where master and workers have a secret (https://rfc.zeromq.org/spec/26).

Both keys follow from the secret. Only who knows it has the master's public key, without which no handshake with the
master begins; what follows is encrypted with keys of its own for each connection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import gevent
import zmq.green as zmq
from locust.rpc import zmqrpc
from zmq.utils.monitor import recv_monitor_message
from zmq.utils.z85 import encode

from fathom_loadtest.workers.secret import WorkerSecret

_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


@dataclass(frozen=True, slots=True, repr=False)
class _KeyPair:
    """A Curve25519 key pair, each in the forty characters of Z85."""

    public: bytes
    private: bytes

    @classmethod
    def of(cls, secret: WorkerSecret, role: str) -> Self:
        private = encode(secret.private_key(role))
        return cls(zmq.curve_public(private), private)


class MasterSocket(zmqrpc.Server):  # type: ignore[misc] # locust publishes no types
    """Where workers are awaited."""

    def __init__(self, secret: WorkerSecret | None, host: str, port: int) -> None:
        zmqrpc.BaseSocket.__init__(self, zmq.ROUTER, self.ipv4_only(host, port))
        if secret is not None:
            own = _KeyPair.of(secret, "master")
            self.socket.curve_server = True
            self.socket.curve_publickey, self.socket.curve_secretkey = own.public, own.private
        if port:
            self.socket.bind(f"tcp://{host}:{port}")
        self.port = port or self.socket.bind_to_random_port(f"tcp://{host}")


class WorkerSocket(zmqrpc.Client):  # type: ignore[misc] # as above
    """The way to the master; ``on_refused`` is called where the master does not speak with this worker."""

    def __init__(
        self, secret: WorkerSecret | None, on_refused: Callable[[], None], host: str, port: int, identity: str
    ) -> None:
        zmqrpc.BaseSocket.__init__(self, zmq.DEALER, self.ipv4_only(host, port))
        if secret is not None:
            own = _KeyPair.of(secret, "worker")
            self.socket.curve_serverkey = _KeyPair.of(secret, "master").public
            self.socket.curve_publickey, self.socket.curve_secretkey = own.public, own.private
        self._watching = gevent.spawn(_watch, self.socket.get_monitor_socket(_HANDSHAKE_FAILED), on_refused)
        self.socket.identity = identity.encode()
        self.socket.connect(f"tcp://{host}:{port}")


def use_as_master(secret: WorkerSecret | None) -> None:
    """Have Locust's master listen as ``secret`` says, from now on in this process."""
    zmqrpc.Server = partial(MasterSocket, secret)


def use_as_worker(secret: WorkerSecret | None, on_refused: Callable[[], None]) -> None:
    """Have Locust's worker connect as ``secret`` says, from now on in this process."""
    zmqrpc.Client = partial(WorkerSocket, secret, on_refused)


def _watch(failures: Any, on_refused: Callable[[], None]) -> None:
    while True:
        recv_monitor_message(failures)
        on_refused()
