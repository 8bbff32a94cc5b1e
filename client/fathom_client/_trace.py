"""Trace context that goes with every call: W3C's headers, as gRPC metadata."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from fathom_client.errors import InvalidArgumentError

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_METADATA_NAME: Final = re.compile(r"[a-z0-9_.-]+")

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The span that calls belong to, as W3C's Trace Context writes it (https://www.w3.org/TR/trace-context).

    Where the application uses OpenTelemetry nothing is needed: its current span goes along. This is for callers that
    have the headers themselves, as a proxy does; it goes before OpenTelemetry's. Raises InvalidArgumentError.
    """

    traceparent: str
    tracestate: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.traceparent, str) or not _TRACEPARENT.fullmatch(self.traceparent):
            raise InvalidArgumentError(
                f"traceparent is {self.traceparent!r}; give VERSION-TRACE-PARENT-FLAGS in lower-case hexadecimal, such "
                "as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            )
        if self.tracestate is not None and not (
            isinstance(self.tracestate, str) and self.tracestate.isascii() and self.tracestate.isprintable()
        ):
            raise InvalidArgumentError(f"tracestate is {self.tracestate!r}; give printable ASCII text")

    @contextmanager
    def use(self) -> Iterator[None]:
        """Send this along with every call that begins within the ``with`` block, in this thread or task."""
        pairs: Pairs = (("traceparent", self.traceparent),)
        if self.tracestate:
            pairs += (("tracestate", self.tracestate),)
        token = _explicit.set(pairs)
        try:
            yield
        finally:
            _explicit.reset(token)


_explicit: ContextVar[Pairs] = ContextVar("fathom_client_trace_context", default=())


def trace_metadata() -> Pairs:
    """The pairs that tell a server to which trace a call belongs; none where there is no trace.

    OpenTelemetry is asked only if the application has loaded it: where it has not, there is no span.
    """
    explicit = _explicit.get()
    if explicit or "opentelemetry.trace" not in sys.modules:
        return explicit
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return tuple(
        (name.lower(), value)
        for name, value in carrier.items()
        if _METADATA_NAME.fullmatch(name.lower()) and value.isascii() and value.isprintable()
    )
