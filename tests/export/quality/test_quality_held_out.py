"""Held-out sets: where they are found, what they may hold, and how replies are marked."""

import json
from pathlib import Path
from typing import Any

import pytest

from fathom_export.errors import SourceError
from fathom_export.quality.held_out import HeldOutRow, find_held_out, read_held_out, spread

ROW = {
    "id": "sum-1",
    "task": "sum",
    "messages": [{"role": "user", "content": "1 + 1 ="}],
    "answer": "2",
    "checker": "text",
}


def write(path: Path, *rows: Any) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(task: str, checker: str = "text", answer: str = "2") -> HeldOutRow:
    """A row of a task."""
    return HeldOutRow("x", task, [{"role": "user", "content": "?"}], answer, checker)


def test_a_set_is_found_in_the_folder_before_the_one_beside_it(tmp_path: Path) -> None:
    """The source's own set comes first, then the one that lies beside its folder, else there is none."""
    source = tmp_path / "model"
    source.mkdir()
    assert find_held_out(source) is None
    beside = write(tmp_path / "held_out.jsonl", ROW)
    assert find_held_out(source) == beside.resolve()
    inside = write(source / "held_out.jsonl", ROW)
    assert find_held_out(source) == inside


def test_rows_are_read_as_they_stand(tmp_path: Path) -> None:
    """Every field arrives, and empty lines count for nothing."""
    path = write(tmp_path / "held_out.jsonl", ROW)
    path.write_text(path.read_text() + "\n")
    assert read_held_out(path) == [HeldOutRow(**ROW)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checker": "regex"}, r":1: checker 'regex' is unknown; valid: text, json"),
        ({"messages": []}, ":1: messages must be a list"),
        ({"messages": [{"role": "user"}]}, ":1: messages must be a list"),
        ({"answer": 2}, ":1: answer is 2; it must be a text"),
        ({"extra": 1}, ":1: a row must be an object with exactly the keys id, task"),
        ({"checker": "json", "answer": "{"}, ":1: checker json needs an answer that is JSON"),
    ],
)
def test_a_row_that_is_wrong_is_named_by_its_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """The error gives file, line, what is wrong and what would do."""
    path = write(tmp_path / "held_out.jsonl", {**ROW, **change})
    with pytest.raises(SourceError, match=message):
        read_held_out(path)


@pytest.mark.parametrize(("content", "message"), [("", "holds no rows"), ("{", "is not JSON"), ("[]", "an object")])
def test_a_file_that_holds_no_rows_is_refused(tmp_path: Path, content: str, message: str) -> None:
    """An empty file, a broken line and a line of another kind are each said."""
    path = tmp_path / "held_out.jsonl"
    path.write_text(content)
    with pytest.raises(SourceError, match=message):
        read_held_out(path)


@pytest.mark.parametrize(
    ("checker", "answer", "reply", "is_right"),
    [
        ("text", "2", " 2\n", True),
        ("text", "2", "2.", False),
        ("json", '{"a": 1, "b": [2]}', '{"b":[2],"a":1}', True),
        ("json", '{"a": 1}', '{"a": true}', False),
        ("json", '{"a": 1}', '{"a": 1.0}', False),
        ("json", '{"a": 1}', "none", False),
    ],
)
def test_replies_are_marked_by_their_checker(checker: str, answer: str, reply: str, is_right: bool) -> None:
    """Texts count exactly but for outer white space, JSON by value and type."""
    assert row("any", checker, answer).is_right(reply) is is_right


def test_a_sample_has_rows_of_every_task() -> None:
    """Tasks take turns, so that a small sample of a sorted file has them all."""
    rows = [row("a")] * 5 + [row("b")] * 2 + [row("c")]
    assert [each.task for each in spread(rows, 6)] == ["a", "b", "c", "a", "b", "a"]
    assert len(spread(rows, 100)) == 8
