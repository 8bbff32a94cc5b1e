"""What a run left: its stages, its records, and how it ended."""

from dataclasses import dataclass, field
from typing import Literal

from fathom_loadtest.generator import GeneratorLoad
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.scenario import Scenario
from fathom_loadtest.server_side.document import ServerSide

Ending = Literal["completed", "interrupted", "server_lost", "worker_lost"]


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage as it went. ``unfinished`` requests were under way when it was cut short; no figure counts them.

    ``users`` is how many requests were under way at most. The load that was offered is ``rate`` (requests/s, the mean
    over the stage) in an open loop and a trace, and ``users`` where ``rate`` is None (closed loop). ``late`` requests
    of an open loop found ``users`` others under way when they were due, and were sent after their intended time.
    ``attainment`` is the share of requests that met all SLOs, which a sweep goes by; None elsewhere. ``server`` is what
    the server counted meanwhile; None where it was not asked.
    """

    stage: int
    users: int
    opened_ns: int
    closed_ns: int
    unfinished: int
    generator: GeneratorLoad
    name: str = ""
    rate: float | None = None
    late: int = 0
    attainment: float | None = None
    server: ServerSide | None = None


@dataclass(slots=True)
class Run:
    """Everything a run left: its stages, its records, and how it ended.

    ``knee`` is, after a sweep, the number of the stage with the highest load that kept the SLOs; None where none did.
    """

    scenario: Scenario
    stages: list[StageRun] = field(default_factory=list)
    recorder: Recorder = field(default_factory=Recorder)
    ending: Ending = "completed"
    ending_message: str = "every stage ran to its end"
    knee: int | None = None
