"""What the two clients' channels share: options, call metadata, and the streamed method."""

import re
from collections.abc import Mapping
from typing import Any, Final

from tritonclient.grpc import service_pb2

from fathom_client._timeouts import GRACE_S, Timeout
from fathom_client.errors import InvalidArgumentError

DEFAULT_TIMEOUT: Final = Timeout()

STREAM_METHOD: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
STREAM_CODECS: Final[dict[str, Any]] = {
    "request_serializer": service_pb2.ModelInferRequest.SerializeToString,
    "response_deserializer": service_pb2.ModelStreamInferResponse.FromString,
}
"""``ModelStreamInfer`` is called with one request. Opened as unary-stream, the same on the wire, it half-closes at once
and needs no thread that feeds requests; Triton answers a half-closed stream in full."""

STREAM_METADATA: Final = (("triton_grpc_error", "true"),)
"""Makes Triton end a stream's call with the gRPC status of its error, where it would send a message without a code."""

IN_FLIGHT_BATCHES: Final = 4
"""So many batches of one ``embed`` are on their way at once: the server computes one while the next arrives."""


def check_metadata(metadata: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Return the pairs that go with every call; raise InvalidArgumentError for a name that gRPC would refuse."""
    pairs = tuple((metadata or {}).items())
    for name, value in pairs:
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_.-]+", name) or name.endswith("-bin"):
            raise InvalidArgumentError(f"metadata has the name {name!r}; use lower-case letters, digits, - _ and .")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise InvalidArgumentError(f"metadata {name!r} has a value that is no printable ASCII text")
    return pairs


def channel_options(timeout: Timeout) -> list[tuple[str, Any]]:
    """Messages of any size, a connection of this client's own, ``connect_s`` for an attempt, a quick return."""
    connect_ms = max(100, round(timeout.connect_s * 1000))
    return [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.min_reconnect_backoff_ms", connect_ms),  # gRPC's name for the limit of one attempt
        ("grpc.dns_ares_query_timeout", connect_ms),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]


def call_limit(timeout_s: float | None) -> float | None:
    """The gRPC deadline that goes with a time limit: the server, which knows more, is to give up first."""
    return None if timeout_s is None else timeout_s + GRACE_S
