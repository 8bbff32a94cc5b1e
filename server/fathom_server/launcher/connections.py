"""Who is connected to a port of this machine, and which connections wait for an answer, as Linux itself knows it.

From the kernel's socket diagnostics (sock_diag(7), which ``ss`` reads, too): no privilege is needed, and nothing is
said of what travels.
"""

import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, Self

NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
NLM_F_REQUEST_DUMP: Final = 0x301
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
INET_DIAG_INFO: Final = 2
ESTABLISHED_OR_HALF_CLOSED: Final = 1 << 1 | 1 << 8
BUFFER_BYTES: Final = 1 << 18
TIMEOUT_S: Final = 1.0

_NLMSGHDR: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBBI48x")
_INET_DIAG_MSG: Final = struct.Struct("=4x2s46x4xII8x")
"""Of struct inet_diag_msg (72 bytes): the local port, and bytes that were received but not read, sent but not taken."""
_NLATTR: Final = struct.Struct("=HH")
_LAST_SENT: Final = struct.Struct("=44xI4xI")
"""Of struct tcp_info: milliseconds since data was last sent, and since it was last received."""
_BYTES_RECEIVED: Final = struct.Struct("=128xQ")


@dataclass(frozen=True, slots=True)
class Connection:
    """A TCP connection that this machine took on ``port``. ``is_idle``: all that came was answered by something since.

    Of a protocol in which one side speaks at a time (HTTP/1.1) an idle one waits for its client. A stream of events
    looks idle, too, as soon as its first event is out.
    """

    port: int
    is_idle: bool

    @classmethod
    def parse(cls, message: bytes) -> Self:
        """Read a struct inet_diag_msg with its attributes."""
        port, unread, unsent = _INET_DIAG_MSG.unpack_from(message)
        info = dict(_attributes(message[_INET_DIAG_MSG.size :])).get(INET_DIAG_INFO, b"")
        is_idle = False
        if unread == unsent == 0 and len(info) >= _BYTES_RECEIVED.size:
            sent_ms_ago, received_ms_ago = _LAST_SENT.unpack_from(info)
            (received,) = _BYTES_RECEIVED.unpack_from(info)
            is_idle = received == 0 or sent_ms_ago <= received_ms_ago
        return cls(int.from_bytes(port, "big"), is_idle)


def connections(ports: Collection[int]) -> tuple[Connection, ...] | None:
    """Connections to these ports that somebody holds open, in this network namespace; None where nobody can say."""
    found: list[Connection] = []
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as asked:
            asked.settimeout(TIMEOUT_S)
            for family in (socket.AF_INET, socket.AF_INET6):
                found += [each for each in map(Connection.parse, _dump(asked, family)) if each.port in ports]
    except (OSError, AttributeError):  # AttributeError: no Linux
        return None
    return tuple(found)


def _dump(asked: socket.socket, family: int) -> Iterator[bytes]:
    """Every struct inet_diag_msg of a family; raises OSError."""
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0, ESTABLISHED_OR_HALF_CLOSED)
    size = _NLMSGHDR.size + len(request)
    asked.send(_NLMSGHDR.pack(size, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, family, 0) + request)
    while True:
        data, place = asked.recv(BUFFER_BYTES), 0
        while place < len(data):
            length, kind, *_ = _NLMSGHDR.unpack_from(data, place)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR or length < _NLMSGHDR.size:
                raise OSError("the kernel refuses to list sockets")
            yield data[place + _NLMSGHDR.size : place + length]
            place += -(-length // 4) * 4


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _NLATTR.size <= len(data):
        length, kind = _NLATTR.unpack_from(data, place)
        if length < _NLATTR.size:
            return
        yield kind, data[place + _NLATTR.size : place + length]
        place += -(-length // 4) * 4
