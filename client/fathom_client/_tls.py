"""Who is believed, and who we are, on an encrypted connection: a value."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from fathom_client.errors import InvalidArgumentError

Pem = str | Path | bytes
"""A file in PEM form, or its contents."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Encryption of a connection; each of the three is a file in PEM form, or its contents as bytes.

    ``ca``: the authorities that may have signed the server's certificate, without it those that gRPC brings along.
    ``certificate`` and ``key``: this client's own, for servers that ask for one (mutual TLS); the key without a
    password. ``server_name``: the name in the server's certificate, where it is reached by another one. Files are read
    when the value is made. Raises InvalidArgumentError for what cannot be read or does not fit together.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            given, missing = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise InvalidArgumentError(f"tls.{given} is given without tls.{missing}; give both, or neither")
        if self.server_name is not None and not self.server_name:
            raise InvalidArgumentError("tls.server_name is empty; give the name in the server's certificate")
        _check_pair(self.certificate, self.key)
        for name, kind in (("ca", "CERTIFICATE"), ("certificate", "CERTIFICATE"), ("key", "PRIVATE KEY")):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _read(name, value, kind))

    def __repr__(self) -> str:
        given = [f"{name}=..." for name in ("ca", "certificate", "key") if getattr(self, name) is not None]
        if self.server_name is not None:
            given.append(f"server_name={self.server_name!r}")
        return f"Tls({', '.join(given)})"


def _read(name: str, value: object, kind: str) -> bytes:
    if isinstance(value, bytes):
        content = value
    elif isinstance(value, str | Path):
        try:
            content = Path(value).read_bytes()
        except OSError as error:
            raise InvalidArgumentError(f"tls.{name} cannot be read: {error}") from None
    else:
        raise InvalidArgumentError(f"tls.{name} is a {type(value).__name__}; give a file's path, or its PEM as bytes")
    where = f"tls.{name}" + ("" if isinstance(value, bytes) else f" ({value})")
    if b"ENCRYPTED" in content:
        raise InvalidArgumentError(f"{where} has a password, which gRPC cannot take; decrypt it (openssl pkey)")
    if f"{kind}-----".encode() not in content:
        raise InvalidArgumentError(f"{where} holds no PEM block of a {kind.lower()}; give one in PEM form")
    if kind == "CERTIFICATE":
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise InvalidArgumentError(f"{where} holds a damaged certificate: {error}") from None
    return content


def _check_pair(certificate: object, key: object) -> None:
    """Raise InvalidArgumentError for two files of which one is not the other's; gRPC would only fail to connect."""
    if not (isinstance(certificate, str | Path) and isinstance(key, str | Path)):
        return
    try:
        # An empty password, so that OpenSSL does not ask the terminal for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidArgumentError(f"tls.key ({key}) is not the key of tls.certificate ({certificate})") from None
    except OSError:
        pass  # whichever cannot be read is named when it is read
