"""Logs as one JSON object a line, the same in gateway, launcher and backends."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Final

FORMAT_VARIABLE: Final = "FATHOM_LOG_FORMAT"
"""Environment variable by which fathom-serve tells Triton's Python models to write ``JSON_FORMAT``."""
JSON_FORMAT: Final = "json"

FIELDS: Final = "fields"
"""Attribute of a log record (``extra={FIELDS: {…}}``) that holds its further fields."""

REQUEST_LOGGER: Final = "fathom.requests"
"""Logger of the lines that requests leave when they have ended."""


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON: time, level, logger, message, its further fields, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        fields: dict[str, Any] = dict(getattr(record, FIELDS, {}))
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json_line(record.levelname.lower(), record.name, record.getMessage(), fields, record.created)


def json_line(level: str, logger: str, message: str, fields: dict[str, Any], at_s: float) -> str:
    """One line without its end; ``at_s`` in seconds since the epoch."""
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "logger": logger,
        "message": message,
        **fields,
    }
    return json.dumps(line, ensure_ascii=True, separators=(",", ":"), default=str)


def writes_json() -> bool:
    """Whether fathom-serve was asked for JSON."""
    return os.environ.get(FORMAT_VARIABLE) == JSON_FORMAT


def configure_backend_log() -> None:
    """Send a Python model's log to stderr, which Triton hands on: as JSON with a line a request, or as plain lines."""
    if not writes_json():
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger(REQUEST_LOGGER).setLevel(logging.WARNING)
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
