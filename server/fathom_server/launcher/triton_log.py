"""Triton's log: each line forwarded as it comes, and what some lines say about the server's life."""

import contextlib
import json
import re
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from fathom_server.json_log import json_line, writes_json
from fathom_server.launcher.settings import LogLevel

_LEVELS: Final = {"I": "info", "W": "warning", "E": "error", "F": "error"}
_JSON_LEVELS: Final[dict[Any, LogLevel]] = {"warning": "warning", "error": "error", "critical": "error"}
_RANK: Final = {"info": 0, "warning": 1, "error": 2}
_HEADER: Final = re.compile(r"(?P<level>[IWEF])\d{4} [\d:.]+ +\d+ (?P<source>[\w.]+:\d+)\] +(?P<message>.*)")
_WITHOUT_GPU: Final = (  # worth showing only where a GPU should be
    "CudaDriverHelper has not been initialized",
    "CUDA driver version is insufficient for CUDA runtime version",
    "no pinned memory pool",
)
_PROTOBUF_ERROR: Final = "[libprotobuf ERROR "


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """Triton has begun to load a model."""

    name: str


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """A model is ready."""

    name: str


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """A model cannot be loaded; ``reason`` is one line."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    """Nothing uses the model any more, and it is gone."""

    name: str


@dataclass(frozen=True, slots=True)
class ModelsInFlight:
    """During a stop: how many models compute for a request."""

    count: int


@dataclass(frozen=True, slots=True)
class LiveModels:
    """During a stop: models that are not unloaded, and calls other than inference that run."""

    models: int
    calls: int


@dataclass(frozen=True, slots=True)
class HttpConnections:
    """During a stop: HTTP connections that Triton waits for; it still takes gRPC requests until they are gone."""

    count: int


TritonEvent = ModelLoading | ModelLoaded | ModelFailed | ModelUnloaded | ModelsInFlight | LiveModels | HttpConnections


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of Triton's output. ``level`` is None for what is no log line: a model's own prints, a traceback.

    ``is_json`` marks what Fathom's models write when fathom-serve was asked for JSON.
    """

    text: str
    level: LogLevel | None
    message: str
    is_json: bool = False

    @classmethod
    def parse(cls, text: str) -> "LogLine":
        """Take a line apart; the message is unquoted."""
        if text.startswith('{"time":') and (parsed := _parse_json(text)) is not None:
            return parsed
        match = _HEADER.match(text)
        if match is None:
            table = text.startswith(("+-", "| ")) or not text.strip()
            return cls(text, "info" if table else None, text)
        level: LogLevel = _LEVELS[match["level"]]  # type: ignore[assignment]  # the pattern admits no other letter
        message = match["message"]
        if message.startswith('"'):
            try:
                message = json.loads(message, strict=False)
            except ValueError:
                message = message.strip('"')
        return cls(text, level, str(message))


def _parse_json(text: str) -> LogLine | None:
    """A line that one of our own models wrote."""
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    return LogLine(text, _JSON_LEVELS.get(fields.get("level"), "info"), str(fields.get("message")), is_json=True)


_LOADING: Final = re.compile(r"loading: (.+):\d+$")
_LOADED: Final = re.compile(r"successfully loaded '(.+)'")
_UNLOADED: Final = re.compile(r"successfully unloaded '(.+)' version")
_IN_FLIGHT: Final = re.compile(r"Timeout \d+: Found (\d+) model versions that have in-flight inferences")
_LIVE: Final = re.compile(r"Timeout \d+: Found (\d+) live models and (\d+) in-flight non-inference requests")
_HTTP: Final = re.compile(r"Timeout \d+: Found (\d+) HTTP service connections")
_FAILURES: Final = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"failed to load '(.+?)' version \d+: (.+)",
        r"failed to load model '(.+?)': (.+)",
        r"Poll failed for model directory '(.+?)': (.+)",
    )
)


class LogReader:
    """Turns lines into events; keeps the last errors for a failure that no event explains."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=4)
        self._protobuf_error = ""

    def read(self, line: LogLine) -> TritonEvent | None:
        """What the line says, if it is of interest."""
        message = line.message
        if message.startswith(_PROTOBUF_ERROR):
            self._protobuf_error = message.partition("] ")[2]
        for pattern in _FAILURES:
            if match := pattern.match(message):
                reason = " ".join(f"{match[2]} {self._protobuf_error}".split())
                self._protobuf_error = ""
                return ModelFailed(match[1], reason)
        if (line.level == "error" and not _is_about_gpu(message)) or message.startswith("error: "):
            self.errors.append(" ".join(message.split()))
        if match := _LOADING.match(message):
            return ModelLoading(match[1])
        if match := _LOADED.match(message):
            return ModelLoaded(match[1])
        if match := _UNLOADED.match(message):
            return ModelUnloaded(match[1])
        if match := _IN_FLIGHT.match(message):
            return ModelsInFlight(int(match[1]))
        if match := _LIVE.match(message):
            return LiveModels(int(match[1]), int(match[2]))
        if match := _HTTP.match(message):
            return HttpConnections(int(match[1]))
        return None


class LogForwarder:
    """Writes lines on: those of a level and above to stderr, every one to a file.

    A reader of stderr that has gone, or a full disk, ends the forwarding there, never the server.
    """

    def __init__(self, level: LogLevel, file: Path | None, has_gpu: bool) -> None:
        self._rank = _RANK[level]
        self._has_gpu = has_gpu
        self._stderr: TextIO | None = sys.stderr
        self._file: TextIO | None = None
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("a", encoding="utf-8", buffering=1)

    def forward(self, line: LogLine) -> None:
        """Pass one line on."""
        if self._file is not None:
            try:
                self._file.write(line.text + "\n")
            except OSError:
                self._file = None
        if self._stderr is not None and self._is_shown(line):
            try:
                self._stderr.write(_as_json(line) if writes_json() and not line.is_json else line.text + "\n")
                self._stderr.flush()
            except (OSError, ValueError):
                self._stderr = None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _is_shown(self, line: LogLine) -> bool:
        if line.level is None:
            return True
        if not self._has_gpu and _is_about_gpu(line.message):
            return self._rank == 0
        return _RANK[line.level] >= self._rank


def _as_json(line: LogLine) -> str:
    """A line of Triton's as JSON; nothing for an empty one."""
    if not line.message.strip():
        return ""
    return json_line(line.level or "info", "triton", line.message, {}, time.time()) + "\n"


def _is_about_gpu(message: str) -> bool:
    return any(words in message for words in _WITHOUT_GPU)


def say(text: str) -> None:
    """A line of the launcher's own, on stderr; if nobody reads that any more, the server goes on."""
    line = f"fathom-serve: {text}"
    if writes_json():
        level, _, rest = text.partition(": ")
        known = level in ("error", "warning")
        line = json_line(level if known else "info", "fathom.serve", rest if known else text, {}, time.time())
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201 (this is the program's own output)
