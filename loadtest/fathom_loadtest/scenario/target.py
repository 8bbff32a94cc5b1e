"""The server under test and how it is reached."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.scenario.key import Key, check_ranges

METRICS_PORT: Final = 8002
METRICS_OFF: Final = "off"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """An encrypted connection; files are in PEM form."""

    ca: Annotated[Path | None, Key("authorities that may have signed the server's certificate")] = None
    certificate: Annotated[Path | None, Key("this client's own certificate, for mutual TLS")] = None
    key: Annotated[Path | None, Key("its key")] = None
    server_name: Annotated[str | None, Key("name in the server's certificate, where it is reached by another")] = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise ScenarioError("is missing; a certificate and its key are given together", missing)


@dataclass(frozen=True, slots=True)
class Target:
    """The server under test and how it is reached."""

    url: Annotated[str, Key("HOST:PORT of the gRPC endpoint")] = "localhost:8001"
    timeout_s: Annotated[
        float, Key("limit in seconds of one request; a stream that stalls ends as an error", above=0, maximum=1e6)
    ] = 60.0
    api_key_file: Annotated[Path | None, Key("file that holds the API key, sent as `authorization: Bearer`")] = None
    tls: Annotated[
        TlsFiles | None, Key("encrypts the connection; an empty table trusts the authorities that gRPC brings along")
    ] = None
    metrics_url: Annotated[
        str | None,
        Key("address of the server's metrics; port 8002 of the server's host if left out, `off` to do without them"),
    ] = None
    metrics_interval_s: Annotated[float, Key("seconds between two looks at the metrics", minimum=0.1)] = 1.0
    repository: Annotated[
        Path | None, Key("the server's model repository, if it is on this host: passports go into the report")
    ] = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.metrics_url not in (None, METRICS_OFF):
            parts = urlsplit(self.metrics_url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
                raise ScenarioError(
                    f"is {self.metrics_url!r}; it must be http://HOST:PORT/metrics or off", "metrics_url"
                )

    @property
    def metrics(self) -> str | None:
        """Where the server's metrics are; None where they are not wanted."""
        if self.metrics_url == METRICS_OFF:
            return None
        return self.metrics_url or f"http://{self.url.rpartition(':')[0]}:{METRICS_PORT}/metrics"
