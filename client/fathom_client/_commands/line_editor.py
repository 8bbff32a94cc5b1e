"""The prompt of ``chat``: editing, completion of commands, and a history that outlives the session."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

try:
    import readline
except ImportError:  # a Python that was built without it
    readline = None  # type: ignore[assignment]

HISTORY_VARIABLE: Final = "FATHOM_HISTORY"
_HISTORY_LINES: Final = 1000


def history_file() -> Path | None:
    """Where the history is kept: in the file that the variable names, nowhere if it is set and empty."""
    named = os.environ.get(HISTORY_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "fathom" / "chat_history"


class LineEditor:
    """Reads lines from a terminal; a context manager that reads the history and keeps it, for its owner's eyes only."""

    def __init__(self, commands: Sequence[str]) -> None:
        self._commands = commands
        self._file = history_file()

    def __enter__(self) -> Self:
        if readline is not None:
            readline.set_completer_delims(" ")
            readline.set_completer(self._complete)
            readline.parse_and_bind("tab: complete")
            readline.parse_and_bind("set enable-bracketed-paste on")  # lines that are pasted are one turn
            readline.set_history_length(_HISTORY_LINES)
            if self._file is not None and self._file.exists():
                with self._noting():
                    readline.read_history_file(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if readline is not None and self._file is not None:
            with self._noting():
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._file.touch(mode=0o600)
                readline.write_history_file(self._file)

    def read(self, prompt: str) -> str | None:
        """Return the next line; None at the end of input."""
        try:
            return input(prompt)
        except EOFError:
            return None

    def _complete(self, begun: str, state: int) -> str | None:
        fitting = [command for command in self._commands if begun and command.startswith(begun)]
        return fitting[state] if state < len(fitting) else None

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            print(f"(no history in {self._file}: {reason}; {HISTORY_VARIABLE} names another)", file=sys.stderr)
