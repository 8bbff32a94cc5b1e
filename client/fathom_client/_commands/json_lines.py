"""``--jsonl``: a request a line in, a result a line out."""

import argparse
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from fathom_client._commands import exit_status, standard_input
from fathom_client._commands.console import print_json
from fathom_client._commands.pipeline import in_order
from fathom_client._options import check_integer
from fathom_client.errors import FathomError, InvalidArgumentError

MAX_CONCURRENCY: Final = 1024

Numbered = tuple[int, bytes | None]
"""A line and its number, which begins with 1."""


@dataclass(frozen=True, slots=True)
class LineForm:
    """What a line may say: one of the keys in ``subject``, and ``options``; ``id`` is given back as it came."""

    subject: tuple[str, ...]
    options: tuple[str, ...]

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was said, without nulls; raise InvalidArgumentError for keys that a line has not."""
        valid = (*self.subject, *self.options)
        if unknown := sorted(values.keys() - {*valid}):
            raise InvalidArgumentError(f"unknown key {', '.join(unknown)}; valid: id, {', '.join(valid)}")
        given = {key: value for key, value in values.items() if value is not None}
        if sum(key in given for key in self.subject) != 1:
            raise InvalidArgumentError(f"give exactly one of {', '.join(self.subject)}")
        return given


def add_json_lines(parser: argparse.ArgumentParser, form: LineForm) -> None:
    """Add the flags of pipes."""
    keys = f"A line has {' or '.join(form.subject)}, and may have id, {', '.join(form.options)}."
    group = parser.add_argument_group("pipes", textwrap.fill(keys, 78))
    group.add_argument(
        "--jsonl", action="store_true", help="a JSON object a line from standard input, a result a line, in order"
    )
    add_concurrency(group)


def add_concurrency(group: "argparse._ActionsContainer") -> None:
    """Add the flag of how much goes on at once."""
    group.add_argument(
        "--concurrency", type=int, default=8, metavar="N", help="lines answered at once (default: %(default)s)"
    )


def check_concurrency(options: argparse.Namespace) -> int:
    """Return the number of lines at once; raises InvalidArgumentError."""
    return check_integer("--concurrency", options.concurrency, 1, MAX_CONCURRENCY)


def answer_lines(
    answer: Callable[[dict[str, Any]], dict[str, Any]], form: LineForm, options: argparse.Namespace
) -> int:
    """Print each line's result, or its error, as one line of JSON; the exit status is 1 if any line failed.

    ``answer`` turns a checked request into a result; it raises FathomError.
    """

    def work(line: Numbered) -> dict[str, Any]:
        return answer_line(answer, form, *line)

    failed = False
    with closing(in_order(numbered_lines(), work, check_concurrency(options))) as results:
        for result in results:
            failed = failed or "error" in result
            print_json(result)
    return exit_status.SERVER_FAULT if failed else exit_status.DONE


def numbered_lines() -> Iterator[Numbered]:
    """Lines of standard input that are not blank, as they come."""
    for lines in numbered_groups():
        yield from lines


def numbered_groups() -> Iterator[list[Numbered]]:
    """The same lines, those together that came together."""
    number = 0
    for lines in standard_input.lines_together():
        if group := [(place, raw) for place, raw in enumerate(lines, number + 1) if raw is None or raw.strip()]:
            yield group
        number += len(lines)


def answer_line(
    answer: Callable[[dict[str, Any]], dict[str, Any]], form: LineForm, number: int, raw: bytes | None
) -> dict[str, Any]:
    """The result of line ``number``, or what is wrong with it."""
    head: dict[str, Any] = {"line": number}
    try:
        values = _object(standard_input.utf8_line(raw, number), number)
        if (name := values.pop("id", None)) is not None:
            if not isinstance(name, str | int):
                raise InvalidArgumentError(f"line {number} has an id that is a {type(name).__name__}; give a string")
            head["id"] = name
        return head | answer(form.check(values))
    except FathomError as error:
        return head | _fault(error, type(error).__name__, error.code)
    except RecursionError:
        return head | _fault(f"line {number} is JSON that is nested too deeply", InvalidArgumentError.__name__, None)


def _fault(message: object, kind: str, code: str | None) -> dict[str, Any]:
    return {"error": {"type": kind, "message": str(message), "code": code}}


def _object(text: str, number: int) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgumentError(f"line {number} is not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise InvalidArgumentError(f"line {number} is JSON that cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise InvalidArgumentError(f"line {number} is a JSON {type(values).__name__}; give an object")
    return values
