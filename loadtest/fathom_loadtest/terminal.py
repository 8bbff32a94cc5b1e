"""What the terminal shows: a line of progress while running, a table at the end."""

import time
from collections.abc import Iterable
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fathom_loadtest.metrics import Statistics
from fathom_loadtest.phase import Phase
from fathom_loadtest.report.document import Report
from fathom_loadtest.report.numbers import percent, short

_REFRESH_S: Final = 0.25
_LINE_EVERY_S: Final = 10.0


class Progress:
    """One line that follows the open phase; where nobody watches (no terminal), a new line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._phase: Phase | None = None
        self._seen = self._first = self._failed = self._tokens = 0
        self._next_s = 0.0

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, phase: Phase) -> None:
        """Show how the phase stands now."""
        if phase is not self._phase:
            self._phase, self._failed, self._tokens, self._next_s = phase, 0, 0, 0.0
            self._seen = self._first = sum(record.stage != phase.stage for record in phase.recorder)
        for record in phase.recorder.since(self._seen):
            self._failed += not record.succeeded
            self._tokens += record.num_output_tokens
        self._seen = len(phase.recorder)
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + (_REFRESH_S if self._live else _LINE_EVERY_S)
        line = Text(self._line(phase), no_wrap=True, overflow="ellipsis")
        if self._live:
            self._live.update(line, refresh=True)
        elif phase.elapsed_s() > 1:
            self._console.print(line, soft_wrap=True)

    def _line(self, phase: Phase) -> str:
        elapsed_s, ended = phase.elapsed_s(), self._seen - self._first
        limit = f"/{phase.duration_s:g}" if phase.duration_s is not None else ""
        parts = [phase.name, _plural(phase.users, "user"), f"{elapsed_s:.0f}{limit} s"]
        parts.append(f"{ended}{f'/{phase.requests}' if phase.requests else ''} requests")
        if self._failed:
            parts.append(f"{self._failed} failed")
        if elapsed_s > 0:
            parts.append(f"{short(ended / elapsed_s)} requests/s")
            if phase.scenario.streamed:
                parts.append(f"{short(self._tokens / elapsed_s)} tokens/s")
        return " · ".join(parts)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def summary_table(report: Report) -> Table:
    """One row a stage, 80 columns wide: throughput, errors, and the latencies' median and tail in milliseconds."""
    scenario = report.scenario
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    latencies = [("TTFT", "ttft_ms"), ("ITL", "itl_ms")] if scenario.streamed else []
    latencies.append(("latency", "request_latency_ms"))
    headings = ["users", "reqs", "errors", "req/s", *(["tok/s"] * scenario.streamed)]
    headings += [f"{label}\n{rank}" for label, _ in latencies for rank in ("p50", "p95")]
    headings += ["good\nreq/s"] * bool(scenario.slos)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in report.stages:
        figures = stage.figures
        row = [str(stage.users), str(figures.requests), percent(figures.error_rate), short(figures.request_throughput)]
        if scenario.streamed:
            row.append(short(figures.output_token_throughput))
        for _, name in latencies:
            found: Statistics | None = getattr(figures, name)
            row += [short(found.p50), short(found.p95)] if found else [short(None)] * 2
        if scenario.slos:
            row.append(short(figures.goodput))
        table.add_row(*row)
    return table


def remarks(report: Report) -> Iterable[str]:
    """Errors by kind and warnings, one line each."""
    for stage in report.stages:
        where = f"{_plural(stage.users, 'user')}: "
        for kind, number in stage.figures.errors.items():
            yield f"{where}{number} x {kind}, for example: {stage.error_examples[kind]}"
        if stage.unfinished:
            yield f"{where}{_plural(stage.unfinished, 'request')} under way at the end, not counted"
        for warning in stage.warnings:
            yield f"{where}{warning}"
