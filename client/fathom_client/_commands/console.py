"""What is printed: JSON for programs; tables and short forms of long things for people."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

_SHOWN_NUMBERS: Final = 4
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def is_terminal() -> bool:
    """Whether somebody looks at stdout, rather than a program."""
    return sys.stdout is not None and sys.stdout.isatty()


def harmless(text: str) -> str:
    """A model's text as a terminal may have it: control characters, which could redraw or rename it, are spelt out."""
    return text.translate(_CONTROLS)


def print_text(text: str, end: str = "\n") -> None:
    """Print a model's text at once, every character of it to a program, harmless to a terminal."""
    print(harmless(text) if is_terminal() else text, end=end, flush=True)


def print_json(value: Any) -> None:
    """Print a value on a line of its own, at once; bytes as a list of their values, as OpenAI's API has them."""
    print(json.dumps(value, ensure_ascii=False, default=list), flush=True)


def print_table(rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> None:
    """Print rows of as many cells each in columns as wide as they need, those at ``right`` flush right."""
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def short_text(text: str, most: int = 60) -> str:
    """A text on one line, cut after ``most`` characters."""
    line = harmless(" ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def short_vector(vector: Sequence[float]) -> str:
    """The first numbers of a vector, and how many there are."""
    numbers = ", ".join(f"{number:.4f}" for number in vector[:_SHOWN_NUMBERS])
    return f"[{numbers}, …] ({len(vector)} dimensions)"
