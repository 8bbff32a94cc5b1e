"""The recorder keeps what it is given, to the nanosecond."""

import json
from pathlib import Path

from fathom_loadtest.recorder import Recorder, RequestRecord, load_records

RECORDS = [
    RequestRecord(0, 0, 2**60 + 123_456_789, 2**60 + 223_456_789, (2**60 + 200_000_001,), (3,), 7, 3, "stop"),
    RequestRecord(1, 0, 5, 9, error_kind="OverloadedError", error_message="voll – „später“\nnoch einmal"),
]


def test_records_survive_the_file_unchanged(tmp_path: Path) -> None:
    """What is written, one JSON object a line, is read back equal, with times of 60 bits and any text."""
    recorder = Recorder()
    for record in RECORDS:
        recorder.add(record)
    recorder.save(tmp_path / "requests.jsonl")
    lines = (tmp_path / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["start_ns"] for line in lines] == [record.start_ns for record in RECORDS]
    assert load_records(tmp_path / "requests.jsonl") == RECORDS


def test_stages_are_told_apart() -> None:
    """Records are found by their stage, and the latest are at hand."""
    recorder = Recorder()
    for record in RECORDS:
        recorder.add(record)
    assert recorder.sample(1) == [RECORDS[1]]
    assert recorder.sample(2) == []
    assert recorder.recent() == RECORDS
    assert list(recorder) == RECORDS


def test_only_a_record_without_an_error_succeeded() -> None:
    """The error's kind decides."""
    assert [record.succeeded for record in RECORDS] == [True, False]
