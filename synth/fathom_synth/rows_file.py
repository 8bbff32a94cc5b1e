"""The rows of a file, JSONL, CSV or Parquet, read one by one; what is no row comes as one that says why."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fathom_synth.errors import SeedError

_BATCH_ROWS: Final = 1024
MAX_FIELD_CHARACTERS: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row of a file. ``line`` counts from 1: lines of text, rows of Parquet; ``columns`` are its values by name."""

    line: int
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MalformedRow:
    """What stands in a row's place and is none: its line, why, and the text as far as it can be shown."""

    line: int
    reason: str
    raw: str


def read_rows(path: Path) -> Iterator[FileRow | MalformedRow]:
    """Read a file's rows by its suffix (``.jsonl``, ``.ndjson``, ``.csv``, ``.parquet``), each when it is asked for.

    Raises SeedError where the file itself cannot be read.
    """
    readers = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SeedError(f"{path}: is of no known kind; name a file that ends in {', '.join(readers)}")
    try:
        yield from reader(path)
    except OSError as error:
        raise SeedError(f"{path}: cannot be read ({error.strerror or error}); name a file of rows") from error


def _json_lines(path: Path) -> Iterator[FileRow | MalformedRow]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            shown = line.rstrip(b"\r\n").decode("utf-8", errors="backslashreplace")
            try:
                columns = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                yield MalformedRow(number, f"is not UTF-8 (byte {error.start})", shown)
                continue
            except (ValueError, RecursionError) as error:
                yield MalformedRow(number, f"is not JSON ({error})", shown)
                continue
            if isinstance(columns, dict):
                yield FileRow(number, columns)
            else:
                yield MalformedRow(number, f"is a JSON {type(columns).__name__}, not an object", shown)


def _csv(path: Path) -> Iterator[FileRow | MalformedRow]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        names: list[str] | None = None
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield MalformedRow(reader.line_num, f"is not CSV ({error})", "")
                continue
            if values is None:
                return
            if names is None:
                names = values
                if len(set(names)) < len(names) or not all(names):
                    raise SeedError(f"{path}: its first line must name the columns, each once; it is {names!r}")
                continue
            if not values:
                continue
            text = ",".join(values)
            if any("\udc80" <= character <= "\udcff" for character in text):
                shown = text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")
                yield MalformedRow(reader.line_num, "is not UTF-8", shown)
            elif len(values) != len(names):
                reason = f"has {len(values)} fields, and the first line names {len(names)} columns"
                yield MalformedRow(reader.line_num, reason, text)
            else:
                yield FileRow(reader.line_num, dict(zip(names, values, strict=True)))


def _parquet(path: Path) -> Iterator[FileRow | MalformedRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for columns in batch.to_pylist():
                    number += 1
                    yield FileRow(number, columns)
    except pa.ArrowException as error:
        raise SeedError(f"{path}: is not Parquet, or damaged after row {number} ({error})") from error
