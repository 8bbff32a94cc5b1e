"""What is known of one request while it runs: layers and routes write it; log, metrics and limits read it."""

import re
import time
import uuid
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

from fathom_client import TraceContext
from fathom_client.errors import InvalidArgumentError

ANONYMOUS: Final = "anonymous"
"""The key's name where the gateway asks for no keys."""

UNKNOWN: Final = "unknown"
"""The key's name of a request whose key was missing or wrong."""

HUNG_UP: Final = 499

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""What a caller's ``x-request-id`` may be; anything else is replaced, since it goes into logs and headers."""

_STATE: Final = "record"


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request. Times are of ``time.perf_counter``.

    ``is_work`` is whether a model is asked, by a POST that an endpoint takes. ``key_name`` is None until the key has
    been accepted. ``status`` is 0 until the answer begins. ``first_output_s`` is when the first bytes of a streamed
    answer went out. ``rejected`` is why a layer of the edge turned the request away. ``trace`` is the caller's W3C
    trace context; ``prompt`` is the request's body, where the settings let texts into the log.
    """

    request_id: str
    method: str
    path: str
    route: str
    is_work: bool
    address: str
    trace: TraceContext | None
    begun_s: float = field(default_factory=time.perf_counter)
    key_name: str | None = None
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    status: int = 0
    is_stream: bool = False
    has_hung_up: bool = False
    first_output_s: float | None = None
    rejected: str | None = None
    prompt: str | None = None

    @property
    def final_status(self) -> int:
        """The HTTP status for logs and metrics: nginx's 499 where the caller hung up before the end of the answer."""
        return HUNG_UP if self.has_hung_up else self.status

    @property
    def client(self) -> str | None:
        """On whose behalf the engine works: the key's name, so that keys take turns; None where there are no keys."""
        return None if self.key_name == ANONYMOUS else self.key_name


def begin_record(scope: MutableMapping[str, Any], route: str, *, is_work: bool) -> RequestRecord:
    """Make the record of an ASGI HTTP scope and leave it there for ``record_of``."""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    given = headers.get(b"x-request-id", "")
    record = RequestRecord(
        request_id=given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex,
        method=scope["method"],
        path=scope["path"],
        route=route,
        is_work=is_work,
        address=(scope.get("client") or ("",))[0],
        trace=_trace(headers.get(b"traceparent"), headers.get(b"tracestate")),
    )
    scope.setdefault("state", {})[_STATE] = record
    return record


def record_of(scope: Mapping[str, Any]) -> RequestRecord:
    """The record of a request's scope."""
    record: RequestRecord = scope["state"][_STATE]
    return record


def _trace(traceparent: str | None, tracestate: str | None) -> TraceContext | None:
    """The caller's trace; none where it is not as W3C has it, as if the caller had none."""
    if traceparent is None:
        return None
    try:
        return TraceContext(traceparent, tracestate)
    except InvalidArgumentError:
        return None
