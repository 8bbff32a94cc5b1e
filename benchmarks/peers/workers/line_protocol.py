"""What the benchmark and its workers say to each other: one JSON object a line, over standard input and output.

A worker loads its engine, says ``{"pid": ..., "load_s": ...}``, and then answers every ``{"jobs": [...]}`` with
``{"answers": [...]}`` until its input ends. Workers run in environments of their own, so this file needs Python alone.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Job:
    """One request: when it arrives, in seconds from the start of the run, its prompt, and the tokens of its answer."""

    at_s: float
    prompt: list[int]
    max_tokens: int


@dataclass(slots=True)
class Answer:
    """One request's course, in seconds from the start of the run.

    ``longest_gap_s`` is the longest time between two arrivals of tokens, after the first.
    """

    first_s: float = 0.0
    last_s: float = 0.0
    tokens: int = 0
    longest_gap_s: float = 0.0

    def add(self, tokens: int, now_s: float) -> None:
        """Note tokens that have just arrived."""
        if not tokens:
            return
        if self.tokens:
            self.longest_gap_s = max(self.longest_gap_s, now_s - self.last_s)
        else:
            self.first_s = now_s
        self.last_s = now_s
        self.tokens += tokens


@dataclass(slots=True)
class Clock:
    """Seconds since it was made."""

    began: float = field(default_factory=time.perf_counter)

    def now_s(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self.began

    def sleep_until(self, at_s: float) -> None:
        """Sleep until that many seconds have passed."""
        time.sleep(max(0.0, at_s - self.now_s()))


class Stepper(Protocol):
    """An engine that computes step by step in this process."""

    def submit(self, index: int, job: Job) -> None:
        """Give the engine a request."""

    def step(self) -> Iterable[tuple[int, int]]:
        """Compute one step: which requests got how many tokens."""

    def is_busy(self) -> bool:
        """Whether any request is unfinished."""


def drive(stepper: Stepper, jobs: Sequence[Job]) -> list[Answer]:
    """Submit each job when it is due, and step while there is something to do."""
    answers = [Answer() for _ in jobs]
    order = sorted(range(len(jobs)), key=lambda index: jobs[index].at_s)
    clock, submitted = Clock(), 0
    while submitted < len(order) or stepper.is_busy():
        while submitted < len(order) and jobs[order[submitted]].at_s <= clock.now_s():
            stepper.submit(order[submitted], jobs[order[submitted]])
            submitted += 1
        if stepper.is_busy():
            for index, tokens in stepper.step():
                answers[index].add(tokens, clock.now_s())
        else:
            clock.sleep_until(jobs[order[submitted]].at_s)
    return answers


def serve(run: Callable[[list[Job]], list[Answer]], pid: int | None = None, load_s: float | None = None) -> None:
    """Say that the engine is ready, and answer until the input ends.

    ``pid`` is the engine's process, by default this one, and ``load_s`` the seconds from its start until it was ready,
    by default those since this process was started, which its starter knows.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    _say(answers, {"pid": pid or os.getpid(), "load_s": load_s})
    for line in sys.stdin:
        jobs = [Job(**job) for job in json.loads(line)["jobs"]]
        _say(answers, {"answers": [asdict(answer) for answer in run(jobs)]})


def _say(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()
