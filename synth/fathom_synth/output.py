"""The data itself, JSONL or Parquet, in chat form; written beside and renamed, so that it is whole or not there."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from fathom_synth.errors import OutputError
from fathom_synth.journal import write_error

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_STEM: Final = "rows"
_GROUP_ROWS: Final = 4096


class RowWriter(Protocol):
    """Takes rows one after the other."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Take one row."""
        ...


@contextmanager
def write_rows(folder: Path, kind: str) -> Iterator[RowWriter]:
    """Write ``rows.jsonl`` or ``rows.parquet`` into a folder; it appears when all rows were taken.

    Raises OutputError where it cannot be written; then what stood there before is left as it was.
    """
    path = folder / f"{ROWS_STEM}.{kind}"
    if kind == "jsonl":
        with write_lines(path) as lines:
            yield lines
        return
    with _replaced(path) as partial:
        writer = _ParquetRows(partial)
        try:
            yield writer
        finally:
            writer.close()


@contextmanager
def write_lines(path: Path) -> Iterator[RowWriter]:
    """Write a file of JSON lines, whole or not at all. Raises OutputError."""
    with _replaced(path) as partial, partial.open("w", encoding="utf-8") as file:
        yield _JsonLines(file)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises OutputError."""
    with _replaced(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A file beside, which takes the place of ``path`` at the end, or is removed where something fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise write_error(path, error) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class _JsonLines:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=True) + "\n")


class _ParquetRows:
    """Rows in groups of 4,096; only one group is in memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._schema = parquet_schema()
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[Mapping[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == _GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            rows = [_with_score_pairs(row) for row in self._rows]
            self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))
            self._rows = []


def parquet_schema() -> "pa.Schema":
    """The columns of ``rows.parquet``; the same fields as a line of ``rows.jsonl``, with the scores as a map."""
    import pyarrow as pa

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    teacher = dict.fromkeys(("model", "source", "revision", "licence", "training", "override"), text)
    prompt = {"name": text, "seeds": text, "line": whole, "templates_sha256": text, "json_schema_sha256": text}
    numbers = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    sampling = {
        "seed": whole, "sample": whole, "n": whole, "max_tokens": whole, "top_k": whole,
        **dict.fromkeys(numbers, real), "stop": pa.list_(text),
    }  # fmt: skip
    provenance = {
        "teacher": pa.struct(list(teacher.items())),
        "prompt": pa.struct(list(prompt.items())),
        "sampling": pa.struct(list(sampling.items())),
        "finish_reason": text,
        "tokens": whole,
        "scores": pa.map_(text, real),
        "tool": text,
    }
    message = pa.struct([("role", text), ("content", text)])
    return pa.schema(
        [("id", text), ("messages", pa.list_(message)), ("provenance", pa.struct(list(provenance.items())))]
    )


def _with_score_pairs(row: Mapping[str, Any]) -> dict[str, Any]:
    provenance = row["provenance"]
    return {**row, "provenance": {**provenance, "scores": list(provenance["scores"].items())}}


def read_output_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read rows that were written here, of either kind. Raises OutputError."""
    from fathom_synth.rows_file import FileRow, read_rows

    for row in read_rows(path):
        if not isinstance(row, FileRow) or not {"id", "messages", "provenance"} <= row.columns.keys():
            raise OutputError(f"{path}:{row.line}: is no row of training data; run the job again")
        yield row.columns
