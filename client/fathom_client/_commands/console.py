"""What people see: tables, and short forms of long things."""

import sys
from collections.abc import Iterable, Sequence

_SHOWN_NUMBERS = 4


def is_terminal() -> bool:
    """Whether somebody looks at stdout, rather than a program."""
    return sys.stdout is not None and sys.stdout.isatty()


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
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def short_vector(vector: Sequence[float]) -> str:
    """The first numbers of a vector, and how many there are."""
    numbers = ", ".join(f"{number:.4f}" for number in vector[:_SHOWN_NUMBERS])
    return f"[{numbers}, …] ({len(vector)} dimensions)"
