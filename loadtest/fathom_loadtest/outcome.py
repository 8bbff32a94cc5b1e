"""What a run left: its stages, its records, and how it ended."""

from dataclasses import dataclass, field
from typing import Literal

from fathom_loadtest.generator import GeneratorLoad
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.scenario import Scenario

Ending = Literal["completed", "interrupted", "server_lost"]


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage as it went. ``unfinished`` requests were under way when it was cut short; no figure counts them."""

    stage: int
    users: int
    opened_ns: int
    closed_ns: int
    unfinished: int
    generator: GeneratorLoad


@dataclass(slots=True)
class Run:
    """Everything a run left: its stages, its records, and how it ended."""

    scenario: Scenario
    stages: list[StageRun] = field(default_factory=list)
    recorder: Recorder = field(default_factory=Recorder)
    ending: Ending = "completed"
    ending_message: str = "every stage ran to its end"
