"""Where a repository is not what its bundle, sources and tools would make now."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fathom_export.errors import SourceError
from fathom_export.export_model import find_origin
from fathom_export.passport import Origin, Passport, find_passports
from fathom_export.repository.model_config import CONFIG_FILE
from fathom_export.repository.versions import edited_configs, kept_versions, served_version
from fathom_export.spec import Bundle, ModelSpec, model_names

DriftKind = Literal["missing", "extra", "source", "setting", "tool", "file", "config", "version"]


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference: of which model of the bundle (for ``extra``: of which Triton model), in what, and how."""

    model: str
    kind: DriftKind
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class DriftReport:
    """All differences of a repository; ``models`` are the names in the bundle."""

    repository: Path
    models: tuple[str, ...]
    drifts: tuple[Drift, ...]

    @property
    def is_clean(self) -> bool:
        """Whether there is no difference."""
        return not self.drifts

    def as_text(self) -> str:
        """A line for each difference, and what mends them."""
        if self.is_clean:
            return f"{self.repository}: {len(self.models)} models as the bundle, sources and tools would make them"
        lines = [f"{drift.model}: {drift.kind} {drift.subject}: {drift.detail}" for drift in self.drifts]
        return "\n".join([*lines, f"{self.repository}: {len(lines)} differences; fathom-export writes what is missing"])

    def as_json(self) -> str:
        """The report as a JSON object."""
        drifts = [asdict(drift) for drift in self.drifts]
        report = {"repository": str(self.repository), "clean": self.is_clean, "models": self.models, "drifts": drifts}
        return json.dumps(report, indent=2, ensure_ascii=False)


def find_drift(bundle: Bundle) -> DriftReport:
    """Compare a repository with its bundle, without writing or downloading anything.

    A source that cannot be examined is a difference like any other, for the model cannot be made again.
    """
    drifts = [drift for spec in bundle.models for drift in _model_drift(spec, bundle)]
    known = {name for spec in bundle.models for name in model_names(spec)}
    for config in sorted(bundle.repository.glob(f"*/{CONFIG_FILE}")):
        name = config.parent.name
        if name not in known:
            drifts.append(Drift(name, "extra", name, "is in the repository, but no model of the bundle makes it"))
    return DriftReport(bundle.repository, tuple(spec.name for spec in bundle.models), tuple(drifts))


def _model_drift(spec: ModelSpec, bundle: Bundle) -> Iterator[Drift]:
    names = model_names(spec)
    absent = [name for name in names if not (bundle.repository / name / CONFIG_FILE).is_file()]
    for name in absent:
        yield Drift(spec.name, "missing", name, "is not in the repository")
    served = served_version(bundle.repository, names)
    passports = find_passports(bundle.repository, spec.name)
    if absent or not passports:
        if not absent:
            yield Drift(spec.name, "missing", "passport.json", "is absent, so nobody can tell what it was made from")
        return
    if served is None or served not in passports or served not in kept_versions(bundle.repository, names):
        yield Drift(spec.name, "config", CONFIG_FILE, f"of {', '.join(names)} name no version that all of them have")
        served = max(passports)
    else:
        for name in edited_configs(bundle.repository, names, served):
            yield Drift(spec.name, "config", f"{name}/{CONFIG_FILE}", f"was edited; version {served} has its own")
    passport = passports[served]
    for path in passport.damaged_files(bundle.repository):
        what = "was changed since" if (bundle.repository / path).is_file() else "is missing"
        yield Drift(spec.name, "file", path, f"{what} it was written")
    for path in passport.extra_files(bundle.repository):
        yield Drift(spec.name, "file", path, "was not written by the export")
    try:
        origin = find_origin(spec, bundle.folder, fetch=False)[1]
    except SourceError as error:
        yield Drift(spec.name, "source", spec.source, f"cannot be examined: {error}")
        return
    newer = [version for version, other in passports.items() if version != served and other.origin == origin]
    if newer and passport.origin != origin:
        detail = f"{served} is served, but {max(newer)} was made from what the bundle says now"
        yield Drift(spec.name, "version", str(served), detail)
        return
    yield from _origin_drift(spec.name, passport, origin)


def _origin_drift(name: str, passport: Passport, origin: Origin) -> Iterator[Drift]:
    before = passport.origin
    for path in sorted({*before.source_files, *origin.source_files}):
        if path not in origin.source_files:
            yield Drift(name, "source", path, "is gone")
        elif path not in before.source_files:
            yield Drift(name, "source", path, "is new")
        elif before.source_files[path] != origin.source_files[path]:
            yield Drift(name, "source", path, "its content has changed")
    for key, change in _changes(before.source, origin.source):
        yield Drift(name, "source", key, change)
    for key, change in _changes(_flat(before.settings), _flat(origin.settings)):
        yield Drift(name, "setting", key, change)
    for tool, change in _changes(before.versions, origin.versions):
        yield Drift(name, "tool", tool, change)
    if before.code_sha256 != origin.code_sha256:
        yield Drift(name, "tool", "fathom-export", "the code that writes models has changed")


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys whose values differ, and how."""
    for key in sorted({*before, *now}):
        if key not in now:
            yield key, f"was {before[key]!r}, is gone"
        elif key not in before:
            yield key, f"is new: {now[key]!r}"
        elif before[key] != now[key]:
            yield key, f"{before[key]!r} → {now[key]!r}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat
