"""The log: one JSON object a line, each request one of them; no text of a caller's unless the settings ask for it."""

import logging
import sys
import time
from typing import Any, Final

from fathom_server.gateway.edge.request_record import RequestRecord
from fathom_server.json_log import FIELDS, JsonFormatter

ACCESS: Final = "fathom.gateway.access"
WATCHERS: Final = frozenset({"/health/live", "/health/ready", "/metrics"})

_access: Final = logging.getLogger(ACCESS)


def configure_logging(level: int = logging.INFO) -> None:
    """Send the log of the whole process to stderr as JSON; libraries have their warnings heard."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("fathom").setLevel(level)


def log_request(record: RequestRecord) -> None:
    """Log a request that has ended; what probes and Prometheus ask, and get, at the level debug."""
    level = logging.DEBUG if record.route in WATCHERS and record.status == 200 else logging.INFO
    if not _access.isEnabledFor(level):
        return
    now_s = time.perf_counter()
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "key": record.key_name,
        "address": record.address,
        "method": record.method,
        "route": record.route,
        "status": record.final_status,
        "duration_ms": round((now_s - record.begun_s) * 1000, 3),
        "model": record.model,
    }
    if record.first_output_s is not None:
        fields["first_output_ms"] = round((record.first_output_s - record.begun_s) * 1000, 3)
    if record.input_tokens or record.output_tokens:
        fields |= {"input_tokens": record.input_tokens, "output_tokens": record.output_tokens}
    if record.rejected is not None:
        fields["rejected"] = record.rejected
    if record.trace is not None:
        fields["traceparent"] = record.trace.traceparent
    if record.prompt is not None:
        fields["prompt"] = record.prompt
    _access.log(level, "request", extra={FIELDS: fields})


def log_event(message: str, **fields: Any) -> None:
    """Log what is no request: a connection that was turned away."""
    _access.info(message, extra={FIELDS: fields})
