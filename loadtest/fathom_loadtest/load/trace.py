"""Recorded traces: when requests came and how long they and their answers were.

Mooncake's form (kvcache-ai/Mooncake, FAST25-release/traces) is a JSON object a line: ``timestamp`` in milliseconds,
``input_length``, ``output_length``, ``hash_ids`` of the prompt's blocks. Azure's form (Azure/AzurePublicDataset,
AzureLLMInferenceTrace) is CSV: ``TIMESTAMP``, ``ContextTokens``, ``GeneratedTokens``.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fathom_loadtest.errors import TraceError
from fathom_loadtest.scenario import TraceReplay

AZURE_COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_FRACTION: Final = re.compile(r"(\.\d{6})\d+")
_MOST_TOKENS: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One request of a trace. ``due_s``: seconds after the first one, at the trace's own speed."""

    due_s: float
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace's requests in the order in which they came, with the times of the replay."""

    entries: tuple[TraceEntry, ...]
    block_tokens: int

    @property
    def rate(self) -> float | None:
        """Mean rate of the replay in requests/s; None for a trace without a length in time."""
        span_s = self.entries[-1].due_s
        return len(self.entries) / span_s if span_s else None


def load_trace(load: TraceReplay) -> Trace:
    """Read a trace's file; raises TraceError naming the file and the line that is malformed."""
    path = load.file
    try:
        with path.open(encoding="utf-8", newline="") as file:
            beginning = file.read(4096).lstrip()
            file.seek(0)
            read: Callable[[Any, Path], Iterator[TraceEntry]] = _mooncake if beginning[:1] == "{" else _azure
            entries = sorted(read(file, path), key=lambda entry: entry.due_s)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); name a trace") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: is not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    if not entries:
        raise TraceError(f"{path}: holds no request; it must be Mooncake's JSON lines or Azure's CSV")
    began_s = entries[0].due_s
    replayed = [
        TraceEntry((entry.due_s - began_s) / load.speedup, entry.input_tokens, entry.output_tokens, entry.hash_ids)
        for entry in entries
    ]
    if load.requests is not None:
        replayed = replayed[: load.requests]
    if load.duration_s is not None:
        replayed = [entry for entry in replayed if entry.due_s < load.duration_s]
    return Trace(tuple(replayed), load.block_tokens)


def _mooncake(lines: Any, path: Path) -> Iterator[TraceEntry]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{where}: is not JSON ({error}); write one JSON object a line") from error
        if not isinstance(fields, dict):
            raise TraceError(f"{where}: is no JSON object; it must have timestamp, input_length and output_length")
        at_ms = fields.get("timestamp")
        if isinstance(at_ms, bool) or not isinstance(at_ms, int | float) or not 0 <= at_ms < 1e15:
            raise TraceError(f"{where}: timestamp is {at_ms!r}; it must be a number of milliseconds")
        hash_ids = fields.get("hash_ids", [])
        if not isinstance(hash_ids, list) or not all(type(each) is int for each in hash_ids):
            raise TraceError(f"{where}: hash_ids is {hash_ids!r}; it must be a list of whole numbers")
        yield TraceEntry(
            at_ms / 1000,
            _tokens(fields.get("input_length"), f"{where}: input_length"),
            _tokens(fields.get("output_length"), f"{where}: output_length"),
            tuple(hash_ids),
        )


def _azure(lines: Any, path: Path) -> Iterator[TraceEntry]:
    rows = csv.reader(lines)
    header = [name.strip().lstrip("\ufeff") for name in next(rows, [])]
    missing = [name for name in AZURE_COLUMNS if name not in header]
    if missing:
        raise TraceError(
            f"{path}:1: has no column {missing[0]}; it must be Azure's CSV ({', '.join(AZURE_COLUMNS)}) or Mooncake's "
            "JSON lines"
        )
    at, inputs, outputs = (header.index(name) for name in AZURE_COLUMNS)
    for row in rows:
        if not any(row):
            continue
        where = f"{path}:{rows.line_num}"
        if len(row) != len(header):
            raise TraceError(f"{where}: has {len(row)} columns; the header has {len(header)}")
        yield TraceEntry(
            _seconds(row[at], where),
            _tokens(_whole(row[inputs]), f"{where}: ContextTokens"),
            _tokens(_whole(row[outputs]), f"{where}: GeneratedTokens"),
        )


def _seconds(text: str, where: str) -> float:
    try:
        moment = datetime.fromisoformat(_FRACTION.sub(r"\1", text.strip()))
    except ValueError:
        raise TraceError(
            f"{where}: TIMESTAMP is {text!r}; it must be a date and time such as 2023-11-16 18:15:46.680590"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _whole(text: str) -> object:
    try:
        return int(text)
    except ValueError:
        return text


def _tokens(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_TOKENS:
        raise TraceError(f"{what} is {value!r}; it must be a whole number of tokens, at most {_MOST_TOKENS}")
    return max(value, 1)  # recordings have requests of no tokens, which no model takes
