"""Where the server is and how it is spoken to: the flags and variables of every command."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fathom_client._address import DEFAULT_URL
from fathom_client._timeouts import Timeout
from fathom_client.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fathom_client._sync import Client
    from fathom_client._tls import Tls

URL_VARIABLE: Final = "FATHOM_URL"
KEY_VARIABLE: Final = "FATHOM_API_KEY"
TLS_VARIABLES: Final = {
    "tls_ca": "FATHOM_TLS_CA",
    "tls_certificate": "FATHOM_TLS_CERTIFICATE",
    "tls_key": "FATHOM_TLS_KEY",
}

DEFAULT_TIMEOUT_S: Final = Timeout().request_s


def add_connection(parser: argparse.ArgumentParser, *, is_inherited: bool) -> None:
    """Add the flags; a command's parser, which inherits them, has no defaults of its own."""

    def default(value: Any) -> Any:
        return argparse.SUPPRESS if is_inherited else value

    group = parser.add_argument_group("connection")
    group.add_argument(
        "--url",
        default=default(os.environ.get(URL_VARIABLE) or DEFAULT_URL),
        metavar="HOST:PORT",
        help=f"the server's gRPC address, or several with commas (default: ${URL_VARIABLE}, or {DEFAULT_URL})",
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=default(DEFAULT_TIMEOUT_S),
        metavar="SECONDS",
        help=f"time for a whole answer (default: {DEFAULT_TIMEOUT_S:g})",
    )
    group.add_argument(
        "--retries",
        type=int,
        default=default(0),
        metavar="N",
        help="try again so often what no server takes, or a full queue refuses, after growing pauses (default: 0)",
    )
    _completed_by_files(
        group.add_argument(
            "--api-key-file",
            default=default(None),
            metavar="FILE",
            help=f"file of the API key (default: ${KEY_VARIABLE})",
        )
    )
    group.add_argument(
        "--header",
        action="append",
        dest="headers",
        default=default(None),
        metavar="NAME=VALUE",
        help="goes with every call; repeatable",
    )
    group.add_argument("--tls", action="store_true", default=default(False), help="encrypt; so does any flag below")
    for name, what in (
        ("tls_ca", "authorities that sign the server's certificate"),
        ("tls_certificate", "this client's certificate, for servers that ask for one"),
        ("tls_key", "its key, without a password"),
    ):
        variable = TLS_VARIABLES[name]
        _completed_by_files(
            group.add_argument(
                f"--{name.replace('_', '-')}",
                default=default(os.environ.get(variable) or None),
                metavar="PEM",
                help=f"{what} (default: ${variable})",
            )
        )
    group.add_argument(
        "--tls-server-name", default=default(None), metavar="NAME", help="the name in the server's certificate"
    )


def open_client(options: argparse.Namespace) -> "Client":
    """Return a client as the flags and variables say; raises InvalidArgumentError."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it would log of a failed connection, our errors say
    from fathom_client._options import check_integer
    from fathom_client._retry import Retry
    from fathom_client._sync import Client

    retries = check_integer("--retries", options.retries, 0, 99)
    return Client(
        options.url.split(","),
        timeout=options.timeout,
        api_key=_api_key(options.api_key_file),
        metadata=dict(map(_header, options.headers or ())),
        tls=_tls(options),
        retry=Retry(attempts=retries + 1) if retries else None,
    )


def _completed_by_files(action: argparse.Action) -> None:
    action.complete = "file"  # type: ignore[attr-defined] # what shtab looks for


def _api_key(file: str | None) -> str | None:
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or no name that a file can have
        raise InvalidArgumentError(f"--api-key-file names a file that cannot be read: {error}") from None


def _header(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise InvalidArgumentError(f"--header is {given!r}; give NAME=VALUE")
    return name, value


def _tls(options: argparse.Namespace) -> "Tls | None":
    from fathom_client._tls import Tls

    given = options.tls_ca, options.tls_certificate, options.tls_key, options.tls_server_name
    return Tls(*given) if options.tls or any(each is not None for each in given) else None
