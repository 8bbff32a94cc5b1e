"""What a gateway is asked to do."""

import math
import tomllib
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from fathom_server.errors import SettingsError
from fathom_server.tracing import check_endpoint

DEFAULT_TARGET: Final = "localhost:8001"
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 9000
"""The port of Triton's own OpenAI frontend."""

MIB: Final = 1 << 20
_PATHS: Final = frozenset({"target_ca", "target_cert", "target_key", "tls_cert", "tls_key", "keys"})


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway: which Triton it asks, where it listens, whom it lets in and how much of what.

    ``target`` is HOST:PORT of Triton's gRPC service. Where that is encrypted, ``target_ca`` is who signed its
    certificate, ``target_server_name`` the name in it, if it is not the host's, and ``target_cert`` with ``target_key``
    what it asks of its callers. ``tls_cert`` and ``tls_key`` encrypt the gateway's own HTTP. All are PEM files.

    ``keys`` is a file of API keys or a folder of them; without it everybody is let in. ``cors_origins`` are the web
    origins whose pages may call, none without. ``log_prompts`` lets texts into the log.

    ``otlp_endpoint`` is the address of a collector of OpenTelemetry's traces, none if empty; ``trace_share`` (0 to 1)
    is how many of the traces that begin at the gateway are kept.

    Limits: ``max_body_bytes`` of a request's body and ``max_json_depth`` of its JSON; ``max_prompts`` in one
    request; for each key (for everybody together where there are no keys) ``max_concurrent_requests``,
    ``requests_per_minute`` and ``tokens_per_minute``, unlimited where None; ``max_connections`` in all.

    Seconds: ``request_timeout_s`` for a whole answer, ``header_timeout_s`` and ``body_timeout_s`` until a request's
    head and its body are there, ``keep_alive_s`` for an idle connection, ``drain_s`` for a stop, running answers
    included.

    Raises SettingsError.
    """

    target: str = DEFAULT_TARGET
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    target_ca: Path | None = None
    target_server_name: str = ""
    target_cert: Path | None = None
    target_key: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    keys: Path | None = None
    cors_origins: tuple[str, ...] = ()
    log_prompts: bool = False
    otlp_endpoint: str = ""
    trace_share: float = 1.0
    max_body_bytes: int = 16 * MIB
    max_json_depth: int = 64
    max_prompts: int = 64
    max_concurrent_requests: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_connections: int = 4096
    request_timeout_s: float = 600.0
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    keep_alive_s: float = 30.0
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise SettingsError(f"port is {self.port}; a port is a number from 1 to 65535")
        for certificate, key in (("tls_cert", "tls_key"), ("target_cert", "target_key")):
            if (getattr(self, certificate) is None) != (getattr(self, key) is None):
                raise SettingsError(f"only one of {certificate} and {key} is given; give both, or neither")
        if self.target_ca is None and (self.target_cert is not None or self.target_server_name):
            raise SettingsError("target_cert and target_server_name need target_ca: who signed Triton's certificate")
        if self.otlp_endpoint:
            check_endpoint("otlp_endpoint", self.otlp_endpoint)
        if not 0 <= self.trace_share <= 1:
            raise SettingsError(f"trace_share is {self.trace_share:g}; it must be from 0 to 1")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_s") and not (value > 0 and math.isfinite(value)):
                raise SettingsError(f"{field.name} is {value:g}; it must be a number of seconds above 0")
            is_limit = field.name.startswith("max_") or field.name.endswith("_per_minute")
            if is_limit and value is not None and value < 1:
                raise SettingsError(f"{field.name} is {value}; it must be at least 1")

    @classmethod
    def load(cls, file: Path, **given: Any) -> Self:
        """Read a TOML file whose keys are the fields' names; ``given`` values stand above the file's.

        Paths may be relative to the file. Raises SettingsError naming the file and the key.
        """
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file} cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{file} is not TOML: {error}") from error
        values = {name: _checked(file, name, value) for name, value in table.items()}
        values |= {name: file.parent / value for name, value in values.items() if name in _PATHS}
        try:
            return replace(cls(**values), **given)
        except SettingsError as error:
            raise SettingsError(f"{file}: {error}") from error


def _checked(file: Path, name: str, value: object) -> Any:
    """A TOML value as the field's type; raises SettingsError."""
    field = next((each for each in fields(GatewaySettings) if each.name == name), None)
    if field is None:
        known = ", ".join(each.name for each in fields(GatewaySettings))
        raise SettingsError(f"{file} has the key {name!r}, which is not known; known: {known}")
    default = None if field.default is MISSING else field.default
    if name in _PATHS:
        wanted, fits = "the path of a file or folder", isinstance(value, str) and bool(value)
    elif isinstance(default, bool):
        wanted, fits = "true or false", isinstance(value, bool)
    elif isinstance(default, str):
        wanted, fits = "a string", isinstance(value, str)
    elif isinstance(default, tuple):
        wanted = "a list of strings"
        fits = isinstance(value, list) and all(isinstance(each, str) for each in value)
    elif isinstance(default, float):
        wanted, fits = "a number", isinstance(value, int | float) and not isinstance(value, bool)
    else:
        wanted, fits = "an integer", isinstance(value, int) and not isinstance(value, bool)
    if not fits:
        raise SettingsError(f"{file}: {name} is {value!r}; it must be {wanted}")
    return tuple(value) if isinstance(value, list) else value
