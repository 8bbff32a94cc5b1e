"""A report read back: report.json and the requests.jsonl beside it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom_loadtest.errors import ReportFileError
from fathom_loadtest.recorder import RequestRecord
from fathom_loadtest.report.document import READABLE_SCHEMAS, SCHEMA, stage_label
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
    """A report as its files hold it. ``path`` is report.json."""

    path: Path
    schema: str
    started_at: str
    ending: str
    scenario: dict[str, Any]
    target: dict[str, Any]
    environment: dict[str, Any]
    stages: tuple[SavedStage, ...]

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
        try:
            stages = tuple(
                SavedStage(int(stage["stage"]), _label(stage), dict(stage["figures"])) for stage in fields["stages"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ReportFileError(f"{path}: a stage is damaged ({error!r}); run the test again") from error
        own = {name: fields[name] for name in _NEEDED if name != "stages"}
        return cls(path=path, stages=stages, **own)

    @property
    def slos(self) -> tuple[Slo, ...]:
        """Objectives of the run's goodput."""
        return tuple(Slo(slo["name"], slo["limit_ms"]) for slo in self.scenario.get("slos") or ())

    def records(self, stage: int) -> Iterator[RequestRecord]:
        """Read the requests of a stage from requests.jsonl, one after the other.

        Raises ReportFileError where the file is missing, or naming the line that is damaged.
        """
        path = self.path.with_name("requests.jsonl")
        try:
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    try:
                        record = RequestRecord.from_json(json.loads(line))
                    except (ValueError, KeyError, TypeError) as error:
                        raise ReportFileError(
                            f"{path}:{number}: is no request ({error}); use the file that fathom-load wrote"
                        ) from error
                    if record.stage == stage:
                        yield record
        except OSError as error:
            raise ReportFileError(
                f"{path}: cannot be read ({error.strerror}); intervals are computed from it: keep it beside report.json"
            ) from error


def _label(stage: dict[str, Any]) -> str:
    rate = stage.get("rate")
    return stage_label(str(stage.get("name") or ""), int(stage["users"]), None if rate is None else float(rate))
