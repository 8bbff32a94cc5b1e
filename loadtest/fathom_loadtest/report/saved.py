"""A report read back: report.json and the requests.jsonl beside it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final

from fathom_loadtest.errors import ReportFileError, ScenarioError
from fathom_loadtest.recorder import RequestRecord
from fathom_loadtest.report.document import READABLE_SCHEMAS, SCHEMA, stage_label
from fathom_loadtest.report.settings import flat
from fathom_loadtest.scenario import Slo

_NEEDED = {
    "schema": str, "started_at": str, "ending": str, "scenario": dict, "target": dict, "environment": dict,
    "stages": list,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SavedStage:
    """One stage of a saved report; ``figures`` as report.json holds them."""

    stage: int
    label: str
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SavedReport:
    """A report as its files hold it. ``path`` is report.json; the scenario's settings have the names of today."""

    path: Path
    schema: str
    started_at: str
    ending: str
    scenario: dict[str, Any]
    target: dict[str, Any]
    environment: dict[str, Any]
    stages: tuple[SavedStage, ...]
    knee: int | None

    @classmethod
    def read(cls, path: Path) -> "SavedReport":
        """Read report.json, or the one in a folder; raises ReportFileError naming the file and what is wrong."""
        path = path / "report.json" if path.is_dir() else path
        try:
            fields = json.loads(path.read_bytes())
        except OSError as error:
            raise ReportFileError(
                f"{path}: cannot be read ({error.strerror}); name a report.json that fathom-load wrote, or its folder"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ReportFileError(
                f"{path}: is not JSON ({error}); name a report.json that fathom-load wrote"
            ) from error
        schema = fields.get("schema") if isinstance(fields, dict) else None
        if not isinstance(schema, str) or not schema.startswith("fathom-loadtest/"):
            raise ReportFileError(f"{path}: is no report of fathom-load (its schema is {schema!r}, not {SCHEMA!r})")
        if schema not in READABLE_SCHEMAS:
            raise ReportFileError(
                f"{path}: has schema {schema!r}, which this version does not know (it reads "
                f"{', '.join(READABLE_SCHEMAS)}); use the version of fathom-load that wrote it, or run the test again"
            )
        for name, kind in _NEEDED.items():
            if not isinstance(fields.get(name), kind):
                raise ReportFileError(f"{path}: {name!r} is missing or damaged; run the test again")
        own = {name: fields[name] for name in _NEEDED if name != "stages"}
        try:
            stages = tuple(
                SavedStage(int(stage["stage"]), _label(stage), _figures(stage["figures"])) for stage in fields["stages"]
            )
            if schema != SCHEMA:
                own["scenario"] = _upgraded(own["scenario"])
            slos = own["scenario"].get("slos") or []
            own["scenario"]["slos"] = {slo["name"]: slo["limit_ms"] for slo in slos}
            knee = None if fields.get("knee") is None else int(fields["knee"])
        except (KeyError, TypeError, ValueError) as error:
            raise ReportFileError(f"{path}: is damaged ({error!r}); run the test again") from error
        return cls(path=path, stages=stages, knee=knee, **own)

    @property
    def slos(self) -> tuple[Slo, ...]:
        """Objectives of the run's goodput; raises ReportFileError where they are damaged."""
        try:
            return Slo.read(self.scenario.get("slos", {}))
        except ScenarioError as error:
            raise ReportFileError(f"{self.path}: its SLOs are damaged ({error}); run the test again") from error

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of the scenario by its path."""
        return flat(self.scenario)

    @property
    def sweep(self) -> bool:
        """Whether the load was raised until an SLO broke."""
        return self.settings.get("load.shape") == "sweep"

    @property
    def open_loop(self) -> bool:
        """Whether latencies count from the intended start."""
        return any(stage.figures.get("due_request_latency_ms") for stage in self.stages)

    def records(self) -> Iterator[RequestRecord]:
        """Read the requests of all stages from requests.jsonl, one after the other.

        Raises ReportFileError where the file is missing, or naming the line that is damaged.
        """
        path = self.path.with_name("requests.jsonl")
        try:
            with path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    try:
                        yield _record(line)
                    except (ValueError, KeyError, TypeError) as error:
                        raise ReportFileError(
                            f"{path}:{number}: is no request ({error}); use the file that fathom-load wrote"
                        ) from error
        except OSError as error:
            raise ReportFileError(
                f"{path}: cannot be read ({error.strerror}); intervals are computed from it: keep it beside report.json"
            ) from error


_RENAMED: Final = {
    "url": "target.url", "timeout_s": "target.timeout_s", "users": "load.users", "duration_s": "load.duration_s",
    "requests": "load.requests", "model": "tasks[0].model", "task": "tasks[0].task", "prompt_file": "tasks[0].prompts",
    "temperature": "tasks[0].sampling.temperature", "ignore_eos": "tasks[0].sampling.ignore_eos",
}  # fmt: skip


def _upgraded(scenario: dict[str, Any]) -> dict[str, Any]:
    """Give a scenario of version 1, a closed loop, the names of version 2."""
    named = {_RENAMED.get(name, name): value for name, value in scenario.items()} | {"load.shape": "closed"}
    for name in ("input_tokens", "output_tokens"):
        length = named.pop(name, None)
        if isinstance(length, dict):
            spread = length.get("stddev")
            form = (
                {"distribution": "normal", **length} if spread else {"distribution": "fixed", "length": length["mean"]}
            )
            named |= {f"tasks[0].{name}.{key}": value for key, value in form.items()}
    return named


def _figures(figures: Any) -> dict[str, Any]:
    """Check a stage's figures as far as they are read again; raises KeyError, TypeError, ValueError."""
    for name in ("requests", "succeeded", "failed", "duration_s", "error_rate", "goodput"):
        if not isinstance(figures[name], int | float | NoneType):
            raise TypeError(f"{name} is {figures[name]!r}")
    for name in ("requests", "succeeded", "failed"):
        int(figures[name])
    for name, value in figures.items():
        if name != "errors" and isinstance(value, dict) and not all(isinstance(n, int | float) for n in value.values()):
            raise TypeError(f"{name} is {value!r}")
    return dict(figures)


def _record(line: bytes) -> RequestRecord:
    """Read one request; raises KeyError, TypeError, ValueError."""
    record = RequestRecord.from_json(json.loads(line))
    numbers = (record.stage, record.start_ns, record.end_ns, *record.response_ns, *record.response_tokens)
    if not all(isinstance(number, int) for number in numbers) or not isinstance(record.intended_ns, int | NoneType):
        raise TypeError("a number is none")
    if len(record.response_ns) != len(record.response_tokens):
        raise ValueError(f"{len(record.response_ns)} responses and {len(record.response_tokens)} numbers of tokens")
    return record


def _label(stage: dict[str, Any]) -> str:
    rate = stage.get("rate")
    return stage_label(str(stage.get("name") or ""), int(stage["users"]), None if rate is None else float(rate))
