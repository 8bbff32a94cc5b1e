"""Where the server is and how it is spoken to: the flags and variables of every command."""

import argparse
import os
from typing import TYPE_CHECKING, Any, Final

from fathom_client._address import DEFAULT_URL
from fathom_client._timeouts import Timeout

if TYPE_CHECKING:
    from fathom_client._sync import Client

URL_VARIABLE: Final = "FATHOM_URL"

DEFAULT_TIMEOUT_S: Final = Timeout().request_s


def add_connection(parser: argparse.ArgumentParser, *, is_inherited: bool) -> None:
    """Add the flags; they may stand before or after the command, whose parser inherits them."""

    def default(value: Any) -> Any:
        return argparse.SUPPRESS if is_inherited else value

    group = parser.add_argument_group("connection")
    group.add_argument(
        "--url",
        default=default(os.environ.get(URL_VARIABLE) or DEFAULT_URL),
        metavar="HOST:PORT",
        help=f"the server's gRPC address (default: ${URL_VARIABLE}, or {DEFAULT_URL})",
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=default(DEFAULT_TIMEOUT_S),
        metavar="SECONDS",
        help=f"time for a whole answer (default: {DEFAULT_TIMEOUT_S:g})",
    )


def open_client(options: argparse.Namespace) -> "Client":
    """Return a client as the flags and variables say; raises InvalidArgumentError."""
    from fathom_client._sync import Client

    return Client(options.url, timeout=options.timeout)
