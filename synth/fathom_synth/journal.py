"""An append-only file of JSON lines, each under a key: what was answered stays answered, whenever the process ends."""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from fathom_synth.errors import OutputError

SYNC_SECONDS: Final = 1.0
_CHUNK: Final = 1 << 20
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Journal:
    """Records by key, in the order in which they came.

    A record is one line and one write. A process that is killed leaves at most one torn line, the last, which the next
    run cuts off: its request is sent again. The system is asked to write to the disk once a second, so a machine that
    loses its power loses a second. Only places in the file are kept in memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"{path}: cannot be opened ({error.strerror}); choose another output") from error
        try:
            self._end = self._recover()
        except BaseException:
            os.close(self._file)
            raise
        self._synced = time.monotonic()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Append a record; raises OutputError where it cannot be written, and then nothing of it remains."""
        line = json.dumps({"key": key, **record}, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written < len(line):
                written += os.write(self._file, line[written:])
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self._sync()
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise write_error(self.path, error) from error
        self._places[key] = (self._end, len(line))
        self._end += len(line)

    def get(self, key: str) -> dict[str, Any] | None:
        """Read the record of a key; None where there is none."""
        place = self._places.get(key)
        if place is None:
            return None
        record: dict[str, Any] = json.loads(os.pread(self._file, place[1], place[0]))
        return record

    def close(self) -> None:
        """Write to the disk and close."""
        try:
            self._sync()
        finally:
            os.close(self._file)

    def _sync(self) -> None:
        os.fdatasync(self._file)
        self._synced = time.monotonic()

    def _recover(self) -> int:
        """Find every record, cut a torn last line off, and give the place where the next one goes."""
        end = 0
        for number, line in enumerate(self._lines(), start=1):
            try:
                key = json.loads(line)["key"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise OutputError(
                    f"{self.path}:{number}: is damaged ({error}); take the line out, and it is asked again"
                ) from error
            self._places[key] = (end, len(line))
            end += len(line)
        if os.fstat(self._file).st_size > end:
            os.ftruncate(self._file, end)
        return end

    def _lines(self) -> Iterator[bytes]:
        """The file's whole lines."""
        rest, place = b"", 0
        while chunk := os.pread(self._file, _CHUNK, place):
            place += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line + b"\n" for line in lines)


class Lock:
    """One run at a time in a folder; the system lets go of it whatever becomes of the process."""

    def __init__(self, folder: Path) -> None:
        path = folder / ".lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another output") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise OutputError(f"{folder}: another run writes here; wait for it, or choose another output") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def write_error(path: Path, error: OSError) -> OutputError:
    """What to tell of a file that cannot be written."""
    if error.errno in _NO_ROOM:
        return OutputError(
            f"{path}: there is no room for it ({error.strerror}); what was answered is kept: "
            "make room, and run the same command again"
        )
    return OutputError(f"{path}: cannot be written ({error.strerror}); run the same command again when it can")
