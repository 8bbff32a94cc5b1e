"""The files that a scenario names, read before anything is sent: prompt sets and the trace."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fathom_loadtest.content.prompt import PromptSource
from fathom_loadtest.content.prompt_set import PromptSet, load_prompt_set
from fathom_loadtest.content.synthetic import SyntheticPrompts, WordCosts
from fathom_loadtest.content.trace_prompts import TracePrompts
from fathom_loadtest.load.trace import Trace, load_trace
from fathom_loadtest.scenario import Scenario, TaskSpec, TraceReplay
from fathom_loadtest.workload import Workload


@dataclass(frozen=True, slots=True)
class ScenarioFiles:
    """A scenario and what its files hold: prompt sets by the tasks' labels, and the trace."""

    scenario: Scenario
    prompt_sets: Mapping[str, PromptSet]
    trace: Trace | None

    @classmethod
    def read(cls, scenario: Scenario) -> "ScenarioFiles":
        """Read them; raises PromptSetError and TraceError naming file and line."""
        sets = {task.label: load_prompt_set(task, scenario.seed) for task in scenario.tasks if task.prompts is not None}
        trace = load_trace(scenario.load) if isinstance(scenario.load, TraceReplay) else None
        return cls(scenario, sets, trace)

    def workload(self, measure: Callable[[TaskSpec], WordCosts]) -> Workload:
        """Complete them with synthetic prompts, for whose tasks ``measure`` tells what words cost."""
        sources: dict[str, PromptSource] = {}
        for task in self.scenario.tasks:
            if task.label in self.prompt_sets:
                sources[task.label] = self.prompt_sets[task.label]
            elif self.trace is not None:
                sources[task.label] = TracePrompts(measure(task), self.trace, self.scenario.seed)
            else:
                sources[task.label] = SyntheticPrompts(measure(task), task, self.scenario.seed)
        return Workload(self.scenario, sources, self.trace)
