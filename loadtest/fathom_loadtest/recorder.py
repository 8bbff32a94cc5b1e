"""What happened to each request, to the nanosecond: the one source of every figure."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, from the moment before it was sent to the moment its answer was whole or had failed.

    Times are ``time.perf_counter_ns()`` of the generator: monotonic, comparable within one run. ``response_ns`` and
    ``response_tokens`` go together: when each response arrived and how many output tokens the server said it carries
    (a vector answer is one response of 0 tokens). The token totals are the server's own. ``error_kind`` is None for
    a request that succeeded.

    ``intended_ns`` is when a request of an open loop was due, at or before ``start_ns``; None in a closed loop.
    ``task`` is the scenario's name for what was asked, ``model`` who was asked. ``conversation`` and ``turn`` (from 0)
    tell the requests of one chat apart from the others; None and 0 outside. ``cancelled`` means that the scenario
    itself left the answer before its end: no error, ``response_ns`` and ``num_output_tokens`` are of what had come.
    """

    stage: int
    index: int
    start_ns: int
    end_ns: int
    response_ns: tuple[int, ...] = ()
    response_tokens: tuple[int, ...] = ()
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    finish_reason: str | None = None
    error_kind: str | None = None
    error_message: str | None = None
    intended_ns: int | None = None
    task: str = ""
    model: str = ""
    conversation: int | None = None
    turn: int = 0
    cancelled: bool = False

    @property
    def due_ns(self) -> int:
        """When the request should have been sent: what a caller waits from, SLOs included."""
        return self.start_ns if self.intended_ns is None else self.intended_ns

    @property
    def succeeded(self) -> bool:
        """Whether the whole answer came."""
        return self.error_kind is None

    @property
    def content_ns(self) -> tuple[int, ...]:
        """When the responses with content arrived: those that carry tokens, or all where none does."""
        carrying = tuple(at for at, tokens in zip(self.response_ns, self.response_tokens, strict=True) if tokens)
        return carrying or self.response_ns

    def to_json(self) -> dict[str, Any]:
        """Every field under its own name."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Undo ``to_json``."""
        times, tokens = tuple(fields["response_ns"]), tuple(fields["response_tokens"])
        return cls(**{**fields, "response_ns": times, "response_tokens": tokens})


class Recorder:
    """Collects the records of a run in the order in which requests end."""

    def __init__(self) -> None:
        self._records: list[RequestRecord] = []

    def add(self, record: RequestRecord) -> None:
        """Keep one record."""
        self._records.append(record)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(self._records)

    def since(self, number: int) -> list[RequestRecord]:
        """Pick the records that came after the first ``number``."""
        return self._records[number:]

    def of_stage(self, stage: int) -> list[RequestRecord]:
        """Pick the records of one stage."""
        return [record for record in self._records if record.stage == stage]

    def save(self, path: Path) -> None:
        """Write one JSON object a line."""
        with path.open("w", encoding="utf-8") as file:
            for record in self._records:
                file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")


def load_records(path: Path) -> list[RequestRecord]:
    """Read what ``Recorder.save`` wrote."""
    with path.open(encoding="utf-8") as file:
        return [RequestRecord.from_json(json.loads(line)) for line in file]
