"""How a connection is kept and how much goes through it: values."""

from dataclasses import dataclass, fields

from fathom_client._options import INT32_MAX, check_integer
from fathom_client._timeouts import check_seconds


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Pings on a connection, to notice a server or a middlebox that has gone without a word.

    ``interval_s`` after the last data comes a ping, and without an answer within ``timeout_s`` the connection is given
    up: what runs on it fails as if the server had died. ``while_idle`` pings between requests, too. A server hangs up
    on a client that pings more often than it allows: Triton's ``--grpc-http2-min-recv-ping-interval-without-data``
    (300 s) and ``--grpc-keepalive-permit-without-calls`` must allow it. Raises InvalidArgumentError.
    """

    interval_s: float = 300.0
    timeout_s: float = 20.0
    while_idle: bool = False

    def __post_init__(self) -> None:
        check_seconds("keepalive.interval_s", self.interval_s)
        check_seconds("keepalive.timeout_s", self.timeout_s)


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest messages in bytes that are sent and taken; None for any size. Raises InvalidArgumentError."""

    max_send_bytes: int | None = None
    max_receive_bytes: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                check_integer(f"limits.{field.name}", value, 1, INT32_MAX)
