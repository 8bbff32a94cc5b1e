"""What the terminal shows while models are built: bars on a terminal, plain lines in a log."""

import sys
from types import TracebackType
from typing import Protocol, Self

from fathom_export.export_model import Outcome, Reporter

_MIB = 1 << 20


class Display(Reporter, Protocol):
    """A reporter that shows what it is told, from entering to leaving it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def end(self, outcome: Outcome) -> None:
        """A model is done."""
        ...


def open_display() -> Display:
    """Bars if standard error is a terminal, else lines."""
    return BarDisplay() if sys.stderr.isatty() else LineDisplay()


def describe(outcome: Outcome) -> str:
    """One line about a finished model."""
    size = f"{outcome.files_bytes / _MIB:.1f} MiB"
    if outcome.served == outcome.version:
        served = ""
    else:
        served = f"; version {outcome.served} is served (--promote {outcome.name} {outcome.version})"
    if outcome.was_up_to_date:
        return f"{outcome.name}: up to date, version {outcome.version} ({size}){served}"
    models = ", ".join(outcome.models)
    return f"{outcome.name}: wrote {models}, version {outcome.version} ({size}) in {outcome.duration_s:.1f} s{served}"


class LineDisplay:
    """A line for each step, for logs and pipes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def begin(self, model: str, step: str) -> None:
        """See ``Reporter.begin``."""
        sys.stderr.write(f"{model}: {step}\n")
        sys.stderr.flush()

    def advance(self, done: int, total: int) -> None:
        """A log does not want every tensor."""

    def end(self, outcome: Outcome) -> None:
        """See ``Display.end``; the summary tells the rest."""


class BarDisplay:
    """A bar for each model."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}
        self._current: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, model: str, step: str) -> None:
        """See ``Reporter.begin``."""
        if model not in self._tasks:
            self._tasks[model] = self._progress.add_task(model, total=None)
        self._current = self._tasks[model]
        self._progress.update(self._current, description=f"{model}: {step}")

    def advance(self, done: int, total: int) -> None:
        """See ``Reporter.advance``."""
        if self._current is not None:
            self._progress.update(self._current, completed=done, total=total)

    def end(self, outcome: Outcome) -> None:
        """See ``Display.end``."""
        self._progress.update(
            self._tasks[outcome.name],
            description=f"{outcome.name}: {'up to date' if outcome.was_up_to_date else 'done'}",
            completed=1,
            total=1,
        )
