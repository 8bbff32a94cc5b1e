"""What a load test does: the value objects of a scenario, and how they are read from a file and flags."""

from fathom_loadtest.scenario.file import parse_setting, read_scenario
from fathom_loadtest.scenario.lengths import Fixed, Histogram, Length, Lognormal, Normal, Uniform
from fathom_loadtest.scenario.loads import Arrivals, ClosedLoop, Load, OpenLoop, Sweep, TraceReplay
from fathom_loadtest.scenario.scenario import Scenario
from fathom_loadtest.scenario.slo import SLO_NAMES, Slo
from fathom_loadtest.scenario.target import Target
from fathom_loadtest.scenario.task import (
    TASKS,
    Cancellation,
    Conversation,
    Documents,
    Sampling,
    SharedPrefix,
    Task,
    TaskSpec,
)

__all__ = [
    "SLO_NAMES",
    "TASKS",
    "Arrivals",
    "Cancellation",
    "ClosedLoop",
    "Conversation",
    "Documents",
    "Fixed",
    "Histogram",
    "Length",
    "Load",
    "Lognormal",
    "Normal",
    "OpenLoop",
    "Sampling",
    "Scenario",
    "SharedPrefix",
    "Slo",
    "Sweep",
    "Target",
    "Task",
    "TaskSpec",
    "TraceReplay",
    "Uniform",
    "parse_setting",
    "read_scenario",
]
