"""What ``fathom-serve`` is asked to do."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from fathom_server.errors import SettingsError
from fathom_server.tracing import check_endpoint

LogLevel = Literal["info", "warning", "error"]
LogFormat = Literal["text", "json"]

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_GRPC_PORT: Final = 8001
DEFAULT_HTTP_PORT: Final = 8000
DEFAULT_METRICS_PORT: Final = 8002
MAX_CACHE_MB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """One server: which repository, where it listens, how it ends, where its log goes.

    A port of None is Triton's usual one, or a free one with ``auto_ports``. ``drain_s`` bounds the whole stop in
    seconds, ``ready_timeout_s`` the start. ``log_level`` is the lowest level of Triton's lines shown on stderr;
    ``log_file`` gets every line. With ``log_format`` json stderr is lines of JSON. ``otlp_endpoint`` is the address of
    a collector of traces, none if empty. ``auto_complete_config`` lets backends fill in what a hand-written
    config.pbtxt leaves out, at the price of a slower start. ``cache_mb`` is the size of the response cache, where a
    model asks for it.
    ``gateway`` starts OpenAI's API beside Triton, on ``openai_port`` and with the settings of ``openai_config``.
    ``tls_cert`` and ``tls_key`` encrypt gRPC, and with ``tls_client_ca`` callers need a certificate, too. Without
    ``admin_key_file`` (or its environment variable) nobody has the protocols for administration. ``termination_log``
    gets the reason of a start or a run that failed, in one line.
    """

    repository: Path
    host: str = DEFAULT_HOST
    grpc_port: int | None = None
    http_port: int | None = None
    metrics_port: int | None = None
    gateway: bool = False
    openai_port: int | None = None
    openai_config: Path | None = None
    auto_ports: bool = False
    ports_file: Path | None = None
    tritonserver: Path | None = None
    drain_s: float = 30.0
    ready_timeout_s: float = 600.0
    log_level: LogLevel = "info"
    log_file: Path | None = None
    log_verbose: int = 0
    log_format: LogFormat = "text"
    otlp_endpoint: str = ""
    auto_complete_config: bool = False
    cache_mb: int = 64
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    admin_key_file: Path | None = None
    termination_log: Path | None = None

    def __post_init__(self) -> None:
        for flag, port in (
            ("--grpc-port", self.grpc_port),
            ("--http-port", self.http_port),
            ("--metrics-port", self.metrics_port),
            ("--openai-port", self.openai_port),
        ):
            if port is not None and not 1 <= port <= 65535:
                raise SettingsError(f"{flag} is {port}; a port is a number from 1 to 65535")
        if self.openai_config is not None and not self.gateway:
            raise SettingsError("--openai-config is given without --openai-port; give both")
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("--tls-cert", "--tls-key") if self.tls_key is None else ("--tls-key", "--tls-cert")
            raise SettingsError(f"{given} is given without {missing}; give both")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise SettingsError("--tls-client-ca is given without --tls-cert and --tls-key; give all three")
        for flag, seconds in (("--drain-s", self.drain_s), ("--ready-timeout-s", self.ready_timeout_s)):
            if not (seconds > 0 and math.isfinite(seconds)):
                raise SettingsError(f"{flag} is {seconds:g}; it must be a number of seconds above 0")
        if self.log_level not in get_args(LogLevel):
            raise SettingsError(f"--log-level is {self.log_level!r}; valid: {', '.join(get_args(LogLevel))}")
        if self.log_format not in get_args(LogFormat):
            raise SettingsError(f"--log-format is {self.log_format!r}; valid: {', '.join(get_args(LogFormat))}")
        if self.otlp_endpoint:
            check_endpoint("--otlp-endpoint", self.otlp_endpoint)
        if not 1 <= self.cache_mb <= MAX_CACHE_MB:
            raise SettingsError(f"--cache-mb is {self.cache_mb}; it must be from 1 to {MAX_CACHE_MB}")
        if self.log_verbose < 0:
            raise SettingsError(f"--log-verbose is {self.log_verbose}; it must not be negative")
