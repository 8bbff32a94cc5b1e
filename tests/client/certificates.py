"""Certificates of an authority of the tests' own, as files."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: the authority, certificate and key of a server and of a client, and another authority."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    stranger: Path


def issue(folder: Path, server_name: str = "triton.test") -> Certificates:
    """Write a new authority and what it signed; the server's certificate is for ``server_name`` and 127.0.0.1."""
    authority = trustme.CA()
    made = Certificates(
        *(folder / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "key", "stranger"))
    )
    authority.cert_pem.write_to_path(made.ca)
    trustme.CA().cert_pem.write_to_path(made.stranger)
    for leaf, certificate, key in (
        (authority.issue_cert(server_name, "127.0.0.1"), made.server, made.server_key),
        (authority.issue_cert("an.application"), made.client, made.client_key),
    ):
        for index, blob in enumerate(leaf.cert_chain_pems):
            blob.write_to_path(certificate, append=index > 0)
        leaf.private_key_pem.write_to_path(key)
    return made
