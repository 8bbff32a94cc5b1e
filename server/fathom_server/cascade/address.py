"""Where a cascade finds the Triton that it runs in, and whom it takes for it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fathom_client import InvalidArgumentError, Tls
from fathom_server.errors import SettingsError

GRPC_VARIABLE: Final = "FATHOM_GRPC_ADDRESS"
"""host:port of Triton's gRPC, which ``fathom-serve`` tells its models."""
CERTIFICATE_VARIABLE: Final = "FATHOM_GRPC_CERTIFICATE"
"""File of the certificate that is shown there, where gRPC is encrypted."""
NAME_VARIABLE: Final = "FATHOM_GRPC_SERVER_NAME"
"""A name in that certificate."""
KEY_VARIABLE: Final = "FATHOM_GRPC_KEY"
"""File of its key, where callers are asked for a certificate as well."""

_DEFAULT_ADDRESS: Final = "127.0.0.1:8001"
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class OwnServer:
    """Triton's gRPC as its own models ask it: host:port, and how it is encrypted, None if it is not."""

    url: str
    tls: Tls | None = None


def own_server() -> OwnServer:
    """What the environment says of this process's Triton: its own port, unencrypted, where nothing was told.

    With a certificate, that very certificate is believed and no other: neither another that the same authority signed,
    nor whoever took the port. Where callers need one, the server's own is shown. Raises SettingsError.
    """
    url = os.environ.get(GRPC_VARIABLE, _DEFAULT_ADDRESS)
    certificate = os.environ.get(CERTIFICATE_VARIABLE)
    if not certificate:
        return OwnServer(url)
    key = os.environ.get(KEY_VARIABLE) or None
    try:
        pinned = server_certificate(Path(certificate).read_bytes())
        tls = Tls(pinned, certificate if key else None, key, os.environ.get(NAME_VARIABLE) or None)
    except (OSError, InvalidArgumentError) as error:
        raise SettingsError(
            f"{CERTIFICATE_VARIABLE} is {certificate}, with which this server cannot be asked ({error}); start it with "
            "fathom-serve, or name the file of its certificate"
        ) from error
    return OwnServer(url, tls)


def server_certificate(chain: bytes) -> bytes:
    """The certificate that a chain in PEM form begins with, which is the server's own; empty where there is none."""
    _, begin, rest = chain.partition(_BEGIN)
    body, end, _ = rest.partition(_END)
    return begin + body + end + b"\n" if end else b""
