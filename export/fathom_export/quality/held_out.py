"""A held-out set: questions with their only right answers, which a source brings as ``held_out.jsonl``."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from fathom_export.errors import SourceError

HELD_OUT_FILE: Final = "held_out.jsonl"

_MOST_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """One question; ``checker`` names how a reply is held against the answer: ``text`` or ``json``."""

    id: str
    task: str
    messages: list[dict[str, str]]
    answer: str
    checker: str

    def is_right(self, reply: str) -> bool:
        """Whether a reply is the answer."""
        return CHECKERS[self.checker](reply, self.answer)


def find_held_out(source: Path) -> Path | None:
    """The set in the source's folder or beside it, or None."""
    for folder in (source, source.resolve().parent):
        if (folder / HELD_OUT_FILE).is_file():
            return folder / HELD_OUT_FILE
    return None


def read_held_out(path: Path) -> list[HeldOutRow]:
    """All rows of a file; raises SourceError giving file, line and what is wrong."""
    rows = []
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SourceError(f"{path} has {path.stat().st_size} bytes; at most {_MOST_BYTES} are read")
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(_row(line, f"{path}:{number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise SourceError(f"{path} holds no rows; remove it or write one JSON object a line")
    return rows


def spread(rows: Sequence[HeldOutRow], count: int) -> list[HeldOutRow]:
    """At most ``count`` rows, each task's first ones in turn, so that all tasks have their share."""
    by_task: dict[str, list[HeldOutRow]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row)
    ranked = sorted(
        ((rank, order, row) for order, group in enumerate(by_task.values()) for rank, row in enumerate(group)),
        key=lambda entry: entry[:2],
    )
    return [row for _, _, row in ranked[:count]]


def _row(line: str, where: str) -> HeldOutRow:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where} is not JSON: {error}") from error
    names = [field.name for field in fields(HeldOutRow)]
    if not isinstance(raw, dict) or sorted(raw) != sorted(names):
        raise SourceError(f"{where}: a row must be an object with exactly the keys {', '.join(names)}")
    for name in ("id", "task", "answer", "checker"):
        if not isinstance(raw[name], str):
            raise SourceError(f"{where}: {name} is {raw[name]!r}; it must be a text")
    messages = raw["messages"]
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise SourceError(f"{where}: messages must be a list of objects with the texts role and content")
    if raw["checker"] not in CHECKERS:
        raise SourceError(f"{where}: checker {raw['checker']!r} is unknown; valid: {', '.join(CHECKERS)}")
    if raw["checker"] == "json" and not _is_json(raw["answer"]):
        raise SourceError(f"{where}: checker json needs an answer that is JSON, but it is {raw['answer']!r}")
    return HeldOutRow(**raw)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _same_text(reply: str, answer: str) -> bool:
    return reply.strip() == answer.strip()


def _same_json(reply: str, answer: str) -> bool:
    """Equal values; key order and spacing are free, types are not (1, true and 1.0 differ)."""
    return _is_json(reply) and _canonical(reply) == _canonical(answer)


def _canonical(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True)


CHECKERS: Final[Mapping[str, Callable[[str, str], bool]]] = {"text": _same_text, "json": _same_json}
"""How a reply is held against the answer, by name; outer white space never counts."""
