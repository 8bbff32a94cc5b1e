"""What a master and its workers say to each other.

Messages travel as Locust's own do: msgpack over ZeroMQ, from a ``MasterRunner`` to ``WorkerRunner``s and back, which
also keep each other's heartbeat. They hold plain values only. Master and workers that share a secret speak CurveZMQ
(``sockets.py``); without one there is no encryption, and a master listens on the loopback interface unless told else.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from fathom_loadtest.content.files import ScenarioFiles
from fathom_loadtest.content.synthetic import WordCosts
from fathom_loadtest.generator import GeneratorLoad
from fathom_loadtest.load.plan import Stage
from fathom_loadtest.metrics import Distribution, StageTally
from fathom_loadtest.scenario import Arrivals, Scenario, TaskSpec
from fathom_loadtest.scenario.key import read_table
from fathom_loadtest.workload import Workload

HELLO: Final = "fathom_hello"
"""Worker: I am here, of this version and name."""
WORKLOAD: Final = "fathom_workload"
"""Master: this is the scenario, with its files and what words cost."""
PREPARED: Final = "fathom_prepared"
"""Worker: I can begin; or what is wrong with the workload here."""
PHASE: Final = "fathom_phase"
"""Master: this is the next phase and your part of it; connect your users."""
CONNECTED: Final = "fathom_connected"
"""Worker: my users are connected."""
OPEN: Final = "fathom_open"
"""Master: begin now; it is so late on my clock."""
RECORDS: Final = "fathom_records"
"""Worker: these requests ended since the last time."""
CLOSED: Final = "fathom_closed"
"""Worker: my part of the phase is over, and how busy I was."""
STOP: Final = "fathom_stop"
"""Master: end the phase now."""


def workload_message(workload: Workload) -> dict[str, Any]:
    """Pack a workload with the files that it was read from.

    Keys and certificates stay where they are: a worker reads its own under the same paths.
    """
    scenario = workload.scenario
    raw = scenario.to_json()
    raw["slos"] = {slo.name: slo.limit_ms for slo in scenario.slos}
    files: dict[str, bytes] = {}

    def packed(path: Path) -> str:
        name = f"{len(files)}-{path.name}"
        files[name] = path.read_bytes()
        return name

    for task, spec in zip(raw["tasks"], scenario.tasks, strict=True):
        if spec.prompts is not None:
            task["prompts"] = packed(spec.prompts)
        if not spec.name:  # its label follows from the task
            del task["name"]
    if "file" in raw["load"]:
        raw["load"]["file"] = packed(Path(raw["load"]["file"]))
    if scenario.target.api_key_file is not None:
        raw["target"]["api_key_file"] = str(scenario.target.api_key_file.resolve())
    for name, value in raw["target"].get("tls", {}).items():
        if name != "server_name":
            raw["target"]["tls"][name] = str(Path(value).resolve())
    costs = {label: source.costs for label, source in workload.sources.items() if hasattr(source, "costs")}
    return {
        "scenario": raw,
        "files": files,
        "costs": {label: [cost.opening, list(cost.words)] for label, cost in costs.items()},
    }


def read_workload(message: Mapping[str, Any], folder: Path) -> Workload:
    """Unpack a workload, its files into ``folder``. Raises LoadTestError where it does not hold here."""
    for name, content in message["files"].items():
        (folder / Path(name).name).write_bytes(content)
    scenario: Scenario = read_table(Scenario, message["scenario"], folder)
    costs = {label: WordCosts(opening, tuple(words)) for label, (opening, words) in message["costs"].items()}

    def known(task: TaskSpec) -> WordCosts:
        return costs[task.label]

    return ScenarioFiles.read(scenario).workload(known)


def phase_message(name: str, stage: Stage, *, place: int, of: int, users: int, traced: bool) -> dict[str, Any]:
    """Pack a worker's part of a phase; ``traced`` tells whether it replays the workload's trace."""
    return {"name": name, "stage": asdict(stage), "place": place, "of": of, "users": users, "traced": traced}


def read_stage(message: Mapping[str, Any]) -> Stage:
    """Unpack a phase's stage."""
    stage = Stage(**message["stage"])
    arrivals: Any = message["stage"]["arrivals"]
    return stage if arrivals is None else replace(stage, arrivals=Arrivals(**arrivals))


def tallies_message(tallies: Mapping[str, StageTally]) -> dict[str, Any]:
    """Pack tallies by task."""
    return {task: tally.to_state() for task, tally in tallies.items()}


def read_tallies(message: Mapping[str, Any], scenario: Scenario) -> dict[str, StageTally]:
    """Unpack tallies by task."""
    return {task: StageTally.from_state(state, scenario.slos) for task, state in message.items()}


def load_message(load: GeneratorLoad, lags_ms: Distribution) -> dict[str, Any]:
    """Pack how busy a worker was."""
    shares = {"loop_cpu_share": load.loop_cpu_share, "process_cpu_share": load.process_cpu_share, "cores": load.cores}
    return {**shares, "lags_ms": lags_ms.to_state()}


def read_load(message: Mapping[str, Any]) -> tuple[GeneratorLoad, Distribution]:
    """Unpack how busy a worker was, and its lags."""
    lags_ms = Distribution.from_state(message["lags_ms"])
    load = GeneratorLoad(
        message["loop_cpu_share"], message["process_cpu_share"], lags_ms.statistics(), cores=message["cores"]
    )
    return load, lags_ms


def part(number: int, place: int, of: int) -> int:
    """Give a worker's part of a number that is shared evenly; the first ones take what is left over."""
    return number // of + (place < number % of)
