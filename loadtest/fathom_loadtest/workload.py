"""The requests of a run, in their order: what each one asks and when it is due, decided by the seed alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Final

from fathom_loadtest.content.prompt import Prompt, PromptSource, seeded
from fathom_loadtest.load.arrivals import due_times_s
from fathom_loadtest.load.plan import Stage
from fathom_loadtest.load.trace import Trace
from fathom_loadtest.scenario import Scenario, TaskSpec


@dataclass(frozen=True, slots=True)
class Share:
    """A process's part of a run: every ``of``-th item, from number ``place`` on. Parts do not overlap."""

    place: int = 0
    of: int = 1


WHOLE: Final = Share()


@dataclass(frozen=True, slots=True)
class Item:
    """One request, or one conversation of ``turns`` requests. ``due_ns`` is None in a closed loop."""

    phase: str
    index: int
    task: TaskSpec
    source: PromptSource
    turns: int
    first: Prompt
    due_ns: int | None = None

    def prompt(self, turn: int) -> Prompt:
        """Give what a turn says."""
        return self.first if turn == 0 else self.source.prompt(self.phase, self.index, turn)


@dataclass(frozen=True, slots=True)
class Workload:
    """A scenario with the content of its requests: ``sources`` by the tasks' labels, and the trace if one is replayed.

    The n-th item of a phase is the same in every run with the same seed, however many users or processes there are.
    """

    scenario: Scenario
    sources: Mapping[str, PromptSource]
    trace: Trace | None = None

    def item(self, phase: str, index: int, due_ns: int | None = None) -> Item:
        """Make the phase's item ``index``."""
        task = self._task(phase, index)
        source = self.sources[task.label]
        return Item(phase, index, task, source, source.turns(phase, index), source.prompt(phase, index), due_ns)

    def due_times_s(self, phase: str, stage: Stage) -> Iterator[float] | None:
        """Give the seconds after the phase's beginning at which its items are due; None in a closed loop."""
        if self.trace is not None:
            return iter([entry.due_s for entry in self.trace.entries])
        if stage.rate is None or stage.arrivals is None:
            return None
        rng = seeded(self.scenario.seed, phase, "arrivals")
        times = due_times_s(stage.arrivals, stage.rate, rng, ramp_from=stage.ramp_from, ramp_s=stage.duration_s)
        return times if stage.requests is None else islice(times, stage.requests)

    def cancels(self, item: Item, turn: int) -> bool:
        """Whether the caller of a request leaves it early."""
        cancellation = item.task.cancellation
        if cancellation is None:
            return False
        return seeded(self.scenario.seed, item.phase, item.index, turn, "cancel").random() < cancellation.share

    def think_time_s(self, item: Item, turn: int) -> float:
        """How long the user of a conversation thinks before its turn ``turn``."""
        mean_s = 0.0 if item.task.conversation is None else item.task.conversation.think_time_s
        if not mean_s:
            return 0.0
        return seeded(self.scenario.seed, item.phase, item.index, turn, "think").expovariate(1 / mean_s)

    def _task(self, phase: str, index: int) -> TaskSpec:
        tasks = self.scenario.tasks
        if len(tasks) == 1:
            return tasks[0]
        weights = tuple(accumulate(task.weight for task in tasks))
        return seeded(self.scenario.seed, phase, index, "task").choices(tasks, cum_weights=weights)[0]
