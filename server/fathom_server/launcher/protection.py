"""Which of Triton's protocols ask for a key, and how gRPC is encrypted.

Registering shared memory, trace and log settings let a caller make the server read or write what it should not, so
nobody has them unless the deployment names a key; loading and unloading models is off altogether (Triton's model
control mode "none"). Triton takes keys on its command line alone: who may list its processes can read them.
"""

import os
import re
import secrets
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from fathom_server.errors import SettingsError
from fathom_server.launcher.own_connection import OwnConnection
from fathom_server.launcher.settings import LaunchSettings

ADMIN_KEY_VARIABLE: Final = "FATHOM_ADMIN_KEY"
ADMIN_HEADER: Final = "fathom-admin-key"
"""Name of the HTTP header that carries the key."""
GRPC_PREFIX: Final = "triton-grpc-protocol-"
"""What Triton puts before the same name among gRPC's metadata."""

CLOSED_HEADER: Final = "fathom-closed"
OWN_HEADER: Final = "fathom-launcher"

CLOSED: Final = ("shared-memory",)
ADMIN: Final = ("trace", "logging")
WITHOUT_TLS: Final = ("inference", "metadata", "model-config", "model-repository", "statistics")
"""What Triton's HTTP, which knows no TLS, gives to the launcher alone where gRPC is encrypted: all but health."""

KEY: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of gRPC's encryption, in PEM form. With ``client_ca``, callers must bring a certificate that it signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def check(self) -> None:
        """Raise SettingsError naming the file that cannot be used, and why; Triton would only fail to listen."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for flag, file in (("--tls-cert", self.certificate), ("--tls-key", self.key)):
            _read(flag, file)
        try:
            context.load_cert_chain(self.certificate, self.key, password=b"")  # else OpenSSL asks the terminal
        except ssl.SSLError as error:
            raise SettingsError(
                f"--tls-cert {self.certificate} and --tls-key {self.key} are no pair of a certificate and its key in "
                f"PEM form, the key without a password ({error.reason or error})"
            ) from None
        if self.client_ca is not None:
            _read("--tls-client-ca", self.client_ca)
            try:
                context.load_verify_locations(self.client_ca)
            except ssl.SSLError as error:
                raise SettingsError(
                    f"--tls-client-ca {self.client_ca} holds no certificate in PEM form ({error.reason or error})"
                ) from None


@dataclass(frozen=True, slots=True)
class Protection:
    """What guards one Triton. ``own_key`` and ``closed_key`` are made anew at each start and told to nobody.

    ``own_connection`` is how its cascades get past its encryption, None without either.
    """

    admin_key: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    own_connection: OwnConnection | None = None
    own_key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    closed_key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @classmethod
    def of(cls, settings: LaunchSettings, cascades: Sequence[str] = ()) -> Self:
        """Read key and certificates; raises SettingsError, which never shows a key.

        ``cascades`` are the models that ask this very server; an encryption that they cannot get past is refused.
        """
        tls = own_connection = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            tls = Tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
            tls.check()
            if cascades:
                own_connection = OwnConnection.tried(cascades[0], tls.certificate, tls.key, tls.client_ca)
        return cls(_admin_key(settings.admin_key_file), tls, own_connection)

    @property
    def headers(self) -> Mapping[str, str]:
        """HTTP headers of the launcher's own questions."""
        return {OWN_HEADER: self.own_key}

    @property
    def environment(self) -> Mapping[str, str]:
        """What Triton's models are told of it."""
        return {} if self.own_connection is None else self.own_connection.environment

    def flags(self) -> list[str]:
        """Triton's flags."""
        admin_key = self.admin_key or self.closed_key
        flags = []
        for flag in ("--grpc-restricted-protocol", "--http-restricted-api"):
            flags.append(f"{flag}={','.join(CLOSED)}:{CLOSED_HEADER}={self.closed_key}")
            flags.append(f"{flag}={','.join(ADMIN)}:{ADMIN_HEADER}={admin_key}")
        if self.tls is not None:
            flags.append(f"--http-restricted-api={','.join(WITHOUT_TLS)}:{OWN_HEADER}={self.own_key}")
            flags += [f"--grpc-server-cert={self.tls.certificate}", f"--grpc-server-key={self.tls.key}"]
            if self.tls.client_ca is None:
                flags.append("--grpc-use-ssl=true")
            else:
                flags += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={self.tls.client_ca}"]
        return flags


def _admin_key(file: Path | None) -> str | None:
    """The key of the file, else of the environment; None without one."""
    where = ADMIN_KEY_VARIABLE if file is None else f"--admin-key-file {file}"
    key = os.environ.get(ADMIN_KEY_VARIABLE, "") if file is None else _read("--admin-key-file", file)
    key = key.strip()
    if not key and file is None:
        return None
    if not KEY.fullmatch(key):
        raise SettingsError(
            f"{where} holds no usable key: it must be one line of 16 to 512 letters, digits and ._~+/=- "
            "(openssl rand -hex 32 makes one)"
        )
    return key


def _read(flag: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"{flag} {file} cannot be read ({reason})") from None
