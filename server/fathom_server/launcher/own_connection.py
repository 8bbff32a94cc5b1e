"""How a cascade asks the very Triton that it runs in where gRPC is encrypted; tried before anything starts."""

import contextlib
import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from fathom_server.cascade.address import CERTIFICATE_VARIABLE, KEY_VARIABLE, NAME_VARIABLE, server_certificate
from fathom_server.errors import SettingsError

_ANY_LABEL: Final = "cascade"
"""Stands for a wildcard, which is a certificate's word for any one label."""


@dataclass(frozen=True, slots=True)
class OwnConnection:
    """The server's certificate, a name in it, and its key where callers must show a certificate: then it is this one.

    The caller believes the certificate itself rather than who signed it, as its own server alone is meant.
    """

    certificate: Path
    name: str
    key: Path | None = None

    @classmethod
    def tried(cls, cascade: str, certificate: Path, key: Path, client_ca: Path | None) -> Self:
        """The connection of a cascade to a server of these files, which are known to be a pair.

        Raises SettingsError where such a caller would not believe the server, or the server would not let it in.
        """
        what = f"{cascade} is a cascade, which asks its models over this server's own gRPC"
        pinned = server_certificate(certificate.read_bytes()).decode("ascii")
        if not pinned:
            raise SettingsError(
                f"{what}, and --tls-cert {certificate} holds no -----BEGIN CERTIFICATE-----; give it in that form "
                "(openssl x509), or serve without the cascade"
            )
        calling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        calling.check_hostname = False  # the names are what is asked for
        calling.load_verify_locations(cadata=pinned)
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for context in (calling, serving):  # as gRPC does: whoever is named is believed, without who signed for it
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        serving.load_cert_chain(certificate, key)
        try:
            seen = _handshake(calling, serving)
        except ssl.SSLError as error:
            raise SettingsError(
                f"{what}, and no caller can believe --tls-cert {certificate} ({_reason(error)}); give a certificate "
                "that is valid for a server, or serve without the cascade"
            ) from None
        name = _server_name(seen)
        if name is None:
            raise SettingsError(
                f"{what}, and --tls-cert {certificate} holds no name that gRPC could look for; give a certificate with "
                "a DNS name or an IP address, or serve without the cascade"
            )
        if client_ca is None:
            return cls(certificate.absolute(), name)
        serving.verify_mode = ssl.CERT_REQUIRED
        serving.load_verify_locations(client_ca)
        calling.load_cert_chain(certificate, key)
        try:
            _handshake(calling, serving)
        except ssl.SSLError as error:
            raise SettingsError(
                f"{what} and shows --tls-cert {certificate} there, which --tls-client-ca {client_ca} does not let in "
                f"({_reason(error)}); give a server certificate that this authority signed for clients, too, or serve "
                "without the cascade"
            ) from None
        return cls(certificate.absolute(), name, key.absolute())

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a cascade is told."""
        told = {CERTIFICATE_VARIABLE: str(self.certificate), NAME_VARIABLE: self.name}
        return told if self.key is None else {**told, KEY_VARIABLE: str(self.key)}


def _handshake(calling: ssl.SSLContext, serving: ssl.SSLContext) -> Mapping[str, Any]:
    """Connect both within this process; gives the server's certificate as its caller sees it. Raises SSLError."""
    to_caller, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = calling.wrap_bio(to_caller, to_server)
    waiting = [caller, serving.wrap_bio(to_server, to_caller, server_side=True)]
    while waiting:
        for end in tuple(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                waiting.remove(end)
    return caller.getpeercert() or {}


def _server_name(certificate: Mapping[str, Any]) -> str | None:
    """A name under which gRPC finds this certificate right; None without any.

    Its alternative names are what counts, a wildcard among them if it stands for one label of three or more; the
    subject's common name does where there are none.
    """
    names = certificate.get("subjectAltName", ())
    found = [name for kind, name in names if kind == "DNS" and "*" not in name]
    found += [str(ipaddress.ip_address(name.strip())) for kind, name in names if kind == "IP Address"]
    found += [
        name.replace("*", _ANY_LABEL, 1)
        for kind, name in names
        if kind == "DNS" and name.startswith("*.") and name.count(".") > 1
    ]
    if not names:
        found = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return found[0] if found else None


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's words for what was wrong."""
    return getattr(error, "verify_message", "") or error.reason or str(error)
