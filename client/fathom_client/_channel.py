"""What the two clients' channels share: how they are opened, call metadata, and the streamed method."""

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc import aio
from grpc.experimental import ChannelOptions
from tritonclient.grpc import service_pb2

from fathom_client import _requests
from fathom_client._attempts import Attempts
from fathom_client._limits import Keepalive, Limits
from fathom_client._retry import Retry
from fathom_client._timeouts import GRACE_S, Timeout
from fathom_client._tls import Tls
from fathom_client.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fathom_client._transport import Transport

DEFAULT_TIMEOUT: Final = Timeout()
DEFAULT_LIMITS: Final = Limits()

STREAM_METHOD: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
STREAM_CODECS: Final[dict[str, Any]] = {
    "request_serializer": service_pb2.ModelInferRequest.SerializeToString,
    "response_deserializer": service_pb2.ModelStreamInferResponse.FromString,
}
"""``ModelStreamInfer`` is called with one request. Opened as unary-stream, the same on the wire, it half-closes at once
and needs no thread that feeds requests; Triton answers a half-closed stream in full."""

IN_FLIGHT_BATCHES: Final = 4
"""So many batches of one ``embed`` are on their way at once: the server computes one while the next arrives."""

_EVERY_ADDRESS: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
"""Requests go in turn to all addresses that a name has, leaving out those that cannot be connected to."""


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """How this client's channels are opened: checked arguments of ``Client`` and ``AsyncClient``."""

    timeout: Timeout
    tls: Tls | None = None
    keepalive: Keepalive | None = None
    limits: Limits = DEFAULT_LIMITS
    retry: Retry | None = None
    transport: "Transport | None" = None

    def open(self, url: str) -> grpc.Channel:
        """Open a channel for threads; it connects when it is first used."""
        if self.transport is not None:
            return self.transport.open(url)
        options = self.options()
        if not _has_greenlets():
            # whoever reads a stream takes its events itself, instead of waiting for gRPC's thread that takes all
            options.append((ChannelOptions.SingleThreadedUnaryStream, 1))
        if self.tls is not None:
            return grpc.secure_channel(url, _credentials(self.tls), options=options)
        return grpc.insecure_channel(url, options=options)

    def open_async(self, url: str) -> aio.Channel:
        """Open a channel for the event loop that runs; it connects when it is first used."""
        if self.transport is not None:
            return self.transport.open_async(url)
        if self.tls is not None:
            return aio.secure_channel(url, _credentials(self.tls), options=self.options())
        return aio.insecure_channel(url, options=self.options())

    def check_size(self, request: Any) -> None:
        """Raise InvalidArgumentError for a message beyond the limit: gRPC would begin a call, and then not send it."""
        most_bytes = self.limits.max_send_bytes
        if most_bytes is not None and request.ByteSize() > most_bytes:
            raise InvalidArgumentError(
                f"the request has {request.ByteSize()} bytes, and limits.max_send_bytes allows {most_bytes}; send less "
                "at once, or allow more"
            )

    def options(self) -> list[tuple[str, Any]]:
        """A connection of this client's own, ``connect_s`` for an attempt, a quick return; limits and pings."""
        connect_ms = max(100, round(self.timeout.connect_s * 1000))
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", self.limits.max_receive_bytes or -1),
            ("grpc.max_send_message_length", self.limits.max_send_bytes or -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.min_reconnect_backoff_ms", connect_ms),  # gRPC's name for the limit of one attempt
            ("grpc.dns_ares_query_timeout", connect_ms),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.service_config", _EVERY_ADDRESS),
        ]
        if self.keepalive is not None:
            options += [
                ("grpc.keepalive_time_ms", round(self.keepalive.interval_s * 1000)),
                ("grpc.keepalive_timeout_ms", round(self.keepalive.timeout_s * 1000)),
                ("grpc.http2.ping_timeout_ms", round(self.keepalive.timeout_s * 1000)),  # else a minute, whatever comes
                ("grpc.keepalive_permit_without_calls", int(self.keepalive.while_idle)),
                ("grpc.http2.max_pings_without_data", 0),
            ]
        if self.tls is not None and self.tls.server_name is not None:
            options += [
                ("grpc.ssl_target_name_override", self.tls.server_name),
                ("grpc.default_authority", self.tls.server_name),
            ]
        return options


def check_settings(
    timeout: Timeout,
    tls: object,
    keepalive: object,
    limits: object,
    retry: object,
    transport: "Transport | None",
) -> ChannelSettings:
    """Check the arguments that say how to connect; raises InvalidArgumentError naming the one that is wrong."""
    if tls is not None and not isinstance(tls, Tls):
        raise InvalidArgumentError(f"tls is {tls!r}; give a Tls, such as Tls(ca='ca.pem'), or None for no encryption")
    if keepalive is not None and not isinstance(keepalive, Keepalive):
        raise InvalidArgumentError(f"keepalive is {keepalive!r}; give a Keepalive, or None for no pings")
    if not isinstance(limits, Limits):
        raise InvalidArgumentError(f"limits is {limits!r}; give a Limits")
    if retry is not None and not isinstance(retry, Retry):
        raise InvalidArgumentError(f"retry is {retry!r}; give a Retry, such as Retry(attempts=3), or None")
    return ChannelSettings(timeout, tls, keepalive, limits, retry, transport)


def describe(urls: Sequence[str], settings: ChannelSettings, metadata: Sequence[tuple[str, str]]) -> str:
    """The arguments of a client for its ``repr``; values of metadata are secrets and stay out."""
    parts = [repr(urls[0] if len(urls) == 1 else list(urls)), f"timeout={settings.timeout!r}"]
    if metadata:
        parts.append("metadata={" + ", ".join(f"{name!r}: '***'" for name, _ in metadata) + "}")
    for name in ("tls", "retry", "keepalive", "transport"):
        value = getattr(settings, name)
        if value is not None:
            parts.append(f"{name}={value!r}")
    if settings.limits != DEFAULT_LIMITS:
        parts.append(f"limits={settings.limits!r}")
    return ", ".join(parts)


def deadline_s(timeout_s: float | None) -> float | None:
    """When a time limit that begins now is up, on the clock of ``time.monotonic``."""
    return None if timeout_s is None else time.monotonic() + timeout_s


def check_metadata(metadata: Mapping[str, str] | None, api_key: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return the pairs that go with every call; raise InvalidArgumentError for a name that gRPC would refuse."""
    pairs = tuple((metadata or {}).items())
    for name, value in pairs:
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_.-]+", name) or name.endswith("-bin"):
            raise InvalidArgumentError(f"metadata has the name {name!r}; use lower-case letters, digits, - _ and .")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise InvalidArgumentError(f"metadata {name!r} has a value that is no printable ASCII text")
    if api_key is None:
        return pairs
    if not isinstance(api_key, str) or not api_key or not api_key.isascii() or not api_key.isprintable():
        raise InvalidArgumentError("api_key is no printable ASCII text; give the key as it was given to you")
    if any(name == "authorization" for name, _ in pairs):
        raise InvalidArgumentError("api_key and metadata 'authorization' are the same header; give one of them")
    return (*pairs, ("authorization", f"Bearer {api_key}"))


def limit_s_of(request: Any, attempts: Attempts) -> float | None:
    """GRPC's deadline of an attempt, in seconds; a later attempt tells the server what time is left.

    Of a question of health or metadata it is the time limit itself. The server of any other request, which knows more,
    is to give up first.
    """
    left_s = attempts.left_s()
    if not isinstance(request, service_pb2.ModelInferRequest):
        return left_s
    if attempts.number > 1:
        _requests.set_timeout(request, left_s)
    return None if left_s is None else left_s + GRACE_S


def _has_greenlets() -> bool:
    """Whether threads are gevent's greenlets, of which one that waits within gRPC would stop all."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    ca, key, certificate = (value if isinstance(value, bytes) else None for value in (tls.ca, tls.key, tls.certificate))
    return grpc.ssl_channel_credentials(ca, key, certificate)
