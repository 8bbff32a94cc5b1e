"""How far a job is: a bar in a terminal, a line now and then elsewhere; always on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fathom_synth.candidate import Answers

LINE_SECONDS: Final = 10.0


class Progress:
    """Counts prompts that were answered, their samples and tokens, and tells of them."""

    def __init__(self, total: int, there: int) -> None:
        self.total = total
        self.answered = there
        self.refused = 0
        self.samples = 0
        self.tokens = 0
        self._there = there
        self._began = time.monotonic()
        self._told = self._began
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True, highlight=False))
            self._task = self._bar.add_task("asking", total=total, completed=there)

    def done(self, answers: Answers | None) -> None:
        """Count one prompt's answers, or its refusal."""
        if answers is None:
            self.refused += 1
        else:
            self.answered += 1
            self.samples += len(answers.samples)
            self.tokens += answers.num_tokens
        if self._bar is not None:
            self._bar.update(self._task, completed=self.answered + self.refused, description=self._rate())
        elif time.monotonic() - self._told > LINE_SECONDS:
            self._told = time.monotonic()
            self.tell(f"{self.answered + self.refused:,} of {self.total:,} prompts, {self._rate()}")

    def tell(self, line: str) -> None:
        """Say something beside the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False)
        else:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-3)
        rate = (self.answered - self._there) / seconds
        left = (self.total - self.answered - self.refused) / rate if rate > 0 else float("inf")
        return f"{rate:.1f} prompts/s, {self.tokens / seconds:,.0f} tokens/s, {_duration(left)} left"

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar while the block runs."""
        if self._bar is None:
            yield
        else:
            with self._bar:
                yield


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "an unknown time"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
