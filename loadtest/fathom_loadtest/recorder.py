"""Every request of a run on disk, and in bounded memory what its figures follow from."""

import json
import random
import shutil
import tempfile
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from fathom_loadtest.errors import OutputError
from fathom_loadtest.metrics import StageTally
from fathom_loadtest.record import RequestRecord
from fathom_loadtest.scenario import Slo

__all__ = ["Recorder", "RequestRecord", "load_records"]

SAMPLED: Final = 5_000
"""So many records of a stage are picked at random where there are more; every one has the same chance."""
RECENT: Final = 500
_RECENT_OF_A_BATCH: Final = 20


@dataclass(frozen=True, slots=True)
class Counts:
    """How a stage stands: requests that ended, those of them that failed or were cancelled, tokens that were made."""

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    output_tokens: int = 0


class Recorder:
    """Collects the records of a run in the order in which requests end.

    Each is written to ``path`` (a temporary file without it) as a line of JSON and counted in its stage's
    tally, so that an hour of load takes no more memory than a minute. ``slos`` are what goodput is judged by. Raises
    OutputError where the file cannot be written.
    """

    def __init__(self, path: Path | None = None, slos: Sequence[Slo] = ()) -> None:
        self._path = path
        self._slos = tuple(slos)
        self._file: IO[bytes] | None = None
        self._size = 0
        self._count = 0
        self._recent: deque[RequestRecord] = deque(maxlen=RECENT)
        self._tallies: dict[int, dict[str, StageTally]] = {}
        self._samples: dict[int, _Sample] = {}

    def add(self, record: RequestRecord) -> None:
        """Keep one record."""
        self._write(record.stage, json.dumps(record.to_json(), ensure_ascii=False).encode() + b"\n")
        self._recent.append(record)
        tallies = self._tallies.setdefault(record.stage, {})
        tally = tallies.get(record.task)
        if tally is None:
            tally = tallies[record.task] = StageTally(self._slos)
        tally.add(record)

    def merge(self, stage: int, lines: Sequence[bytes], tallies: dict[str, StageTally]) -> None:
        """Take what another process recorded of a stage: its records as lines of JSON, and its tallies by task."""
        for line in lines:
            self._write(stage, line + b"\n")
        self._recent.extend(RequestRecord.from_json(json.loads(line)) for line in lines[-_RECENT_OF_A_BATCH:])
        own = self._tallies.setdefault(stage, {})
        for task, tally in tallies.items():
            own.setdefault(task, StageTally(self._slos)).merge(tally)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[RequestRecord]:
        with self._reader() as file:
            yield from _read(file)

    def recent(self) -> list[RequestRecord]:
        """Give the records that came last, 500 at most; of those of other processes a part."""
        return list(self._recent)

    def counts(self, stage: int) -> Counts:
        """Tell how a stage stands."""
        tallies = self._tallies.get(stage, {}).values()
        return Counts(
            requests=sum(tally.requests for tally in tallies),
            failed=sum(tally.failed for tally in tallies),
            cancelled=sum(tally.cancelled for tally in tallies),
            output_tokens=sum(tally.total_output_tokens for tally in tallies),
        )

    def sample(self, stage: int) -> list[RequestRecord]:
        """Read the records of one stage, or ``SAMPLED`` of them picked at random, in the order in which they ended."""
        found = []
        with self._reader() as file:
            for offset in sorted(self._samples[stage].offsets) if stage in self._samples else ():
                file.seek(offset)
                found.append(RequestRecord.from_json(json.loads(file.readline())))
        return found

    def tally(self, stage: int) -> StageTally:
        """Give a stage's counts, those of all its tasks together."""
        tallies = list(self._tallies.get(stage, {}).values())
        if len(tallies) == 1:
            return tallies[0]
        whole = StageTally(self._slos)
        for tally in tallies:
            whole.merge(tally)
        return whole

    def tallies_by_task(self, stage: int) -> dict[str, StageTally]:
        """Give a stage's counts for each of its tasks."""
        return self._tallies.get(stage, {})

    def save(self, path: Path) -> None:
        """Make sure that every record is in the file at ``path``."""
        with self._reader() as file:
            if path != self._path:
                with path.open("wb") as copy:
                    shutil.copyfileobj(file, copy)

    def _write(self, stage: int, line: bytes) -> None:
        try:
            self._open().write(line)
        except OSError as error:
            raise OutputError(
                f"{self._path or 'a temporary file'}: a record cannot be written ({error.strerror}); make room there "
                "or name another folder with --output"
            ) from error
        if stage not in self._samples:
            self._samples[stage] = _Sample(stage)
        self._samples[stage].take(self._size)
        self._size += len(line)
        self._count += 1

    def _open(self) -> IO[bytes]:
        if self._file is None:
            if self._path is None:
                self._file = tempfile.NamedTemporaryFile(prefix="fathom-load-")  # noqa: SIM115 - lives as long as this
            else:
                self._file = self._path.open("wb")
        return self._file

    def _reader(self) -> IO[bytes]:
        """Open what was written so far for reading."""
        file = self._open()
        file.flush()
        return Path(file.name).open("rb")


class _Sample:
    """Places of lines in the file, each line with the same chance (Vitter's algorithm R, 1985)."""

    def __init__(self, stage: int) -> None:
        self.offsets = array("q")
        self._seen = 0
        self._random = random.Random(stage)  # noqa: S311 - repeatable on purpose, guards nothing

    def take(self, offset: int) -> None:
        """Offer one line."""
        self._seen += 1
        if len(self.offsets) < SAMPLED:
            self.offsets.append(offset)
        elif (place := self._random.randrange(self._seen)) < SAMPLED:
            self.offsets[place] = offset


def _read(lines: Iterable[bytes]) -> Iterator[RequestRecord]:
    return (RequestRecord.from_json(json.loads(line)) for line in lines)


def load_records(path: Path) -> list[RequestRecord]:
    """Read what ``Recorder.save`` wrote."""
    with path.open("rb") as file:
        return list(_read(file))
