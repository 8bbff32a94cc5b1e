"""What the terminal shows while a run goes on: a row for each stage, the last one moving."""

import time
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from fathom_loadtest.metrics import request_latency_ms, ttft_ms
from fathom_loadtest.phase import Phase
from fathom_loadtest.report.numbers import short

_REFRESH_S: Final = 0.25
_LINE_EVERY_S: Final = 10.0
_MOST_ROWS: Final = 12


class LiveTable:
    """Follows the open phase; where nobody watches (no terminal), a new line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._rows: list[Sequence[str]] = []
        self._phase: Phase | None = None
        self._next_s = 0.0

    def __enter__(self) -> "LiveTable":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, phase: Phase) -> None:
        """Show how the phase stands now."""
        if phase is not self._phase:
            if self._phase is not None:
                self._rows.append(self._row(self._phase))
            self._phase, self._next_s = phase, 0.0
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + (_REFRESH_S if self._live else _LINE_EVERY_S)
        if self._live:
            self._live.update(self._table(phase), refresh=True)
        elif phase.elapsed_s() > 1:
            named = zip(_headings(phase), self._row(phase), strict=True)
            line = " · ".join(f"{name} {value}" if name else value for name, value in named if value not in ("", "–"))
            self._console.print(line, soft_wrap=True, markup=False)

    def _table(self, phase: Phase) -> Table:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for heading in _headings(phase):
            table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
        for row in [*self._rows[-_MOST_ROWS:], self._row(phase)]:
            table.add_row(*row)
        return table

    def _row(self, phase: Phase) -> Sequence[str]:
        elapsed_s, counts = phase.elapsed_s(), phase.recorder.counts(phase.stage.number)
        latest = [record for record in phase.recorder.recent() if record.stage == phase.stage.number]
        done = [record for record in latest if record.succeeded and not record.cancelled]
        limit_s, limit = phase.stage.duration_s, phase.stage.requests
        trace = phase.workload.trace
        if trace is not None:
            limit = len(trace.entries)
        rate = phase.stage.rate
        row = [
            phase.name,
            f"{rate:g} req/s" if rate is not None else "trace" if trace is not None else f"{phase.users} users",
            f"{elapsed_s:.0f}{f'/{limit_s:g}' if limit_s is not None else ''} s",
            f"{counts.requests}{f'/{limit}' if limit else ''}",
            str(max(0, phase.started - counts.requests)),
            str(counts.failed),
            short(counts.requests / elapsed_s if elapsed_s else None),
        ]
        if phase.workload.scenario.streamed:
            row += [short(counts.output_tokens / elapsed_s if elapsed_s else None), short(_median(map(ttft_ms, done)))]
        row.append(short(_median(map(request_latency_ms, done))))
        if _is_open(phase):
            row.append(str(phase.late))
        if _cancels(phase):
            row.append(str(counts.cancelled))
        return row


def _headings(phase: Phase) -> Sequence[str]:
    streamed = phase.workload.scenario.streamed
    names = ["", "load", "time", "reqs", "open", "errors", "req/s", *(["tok/s", "TTFT ms"] if streamed else ())]
    return [*names, "latency ms", *(["late"] * _is_open(phase)), *(["left"] * _cancels(phase))]


def _is_open(phase: Phase) -> bool:
    load = phase.workload.scenario.load
    return hasattr(load, "max_in_flight")


def _cancels(phase: Phase) -> bool:
    return any(task.cancellation is not None for task in phase.workload.scenario.tasks)


def _median(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return median(found) if found else None
