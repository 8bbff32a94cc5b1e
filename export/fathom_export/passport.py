"""A model's passport: what it was made from, with what, and what came out; written as ``passport.json``."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

from fathom_export.errors import SourceError
from fathom_export.quality.held_out import find_held_out
from fathom_export.sources.folder import hash_file, hash_files, read_json
from fathom_export.sources.resolve import Source
from fathom_export.spec import CascadeSpec, GenerateSpec, ModelSpec, Task, VllmSpec, spec_settings
from fathom_server.engine.plan_passport import PLAN_FILE, PLAN_PASSPORT_FILE

PASSPORT_FILE: Final = "passport.json"

_LATER_FILES: Final = (PASSPORT_FILE, PLAN_FILE, PLAN_PASSPORT_FILE)
_COMPILED: Final = "__pycache__"

_ENCODER_TOOLS: Final = ("fathom-export", "fathom-server", "onnx", "onnxruntime", "onnxscript", "torch", "transformers")
_TOOLS: Final[Mapping[Task, tuple[str, ...]]] = {
    "generate": ("fathom-export", "fathom-server", "onnx-ir", "onnxruntime", "numpy"),
    "embed": _ENCODER_TOOLS,
    "rerank": _ENCODER_TOOLS,
    "classify": _ENCODER_TOOLS,
}

_CODE: Final = (
    "fathom_client.protocol",
    "fathom_export",
    "fathom_server.backends.tokenizer",
    "fathom_server.cascade.settings",
    "fathom_server.engine.settings",
    "fathom_server.text.tokenizer",
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Everything that decides what an export makes: if it is the same again, so are the models.

    ``source_files`` and ``code`` are SHA-256 sums, of the checkpoint's files by path and of the export's own code.
    """

    source: dict[str, str | None]
    source_files: dict[str, str]
    settings: dict[str, Any]
    spec_sha256: str
    versions: dict[str, str]
    code_sha256: str

    @classmethod
    def of(cls, spec: ModelSpec, source: Source) -> Self:
        """Origin of a model that is to be exported now."""
        settings = spec_settings(spec)
        return cls(
            source={"given": source.given, "kind": source.kind, "revision": source.revision},
            source_files=hash_files(source.folder, weights=not isinstance(spec, VllmSpec | CascadeSpec))
            | _held_out_files(spec, source.folder),
            settings=settings,
            spec_sha256=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
            versions=_versions(_TOOLS[spec.task]),
            code_sha256=_hash_code(),
        )

    @property
    def graph_sha256(self) -> str:
        """A sum over what decides the graph and its card: everything but how Triton serves it."""
        parts = asdict(self) | {"spec_sha256": ""}
        parts["settings"] = {key: value for key, value in self.settings.items() if key != "serving"}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Passport:
    """Origin and outcome of one export.

    ``models`` are the Triton models that it made, as this ``version`` of each. ``opsets`` gives the version of each
    operator set (the standard one is ``ai.onnx``), ``check`` the figures of the check that the graph passed, ``files``
    the SHA-256 of every file written, by path in the repository, ``quantisation`` what the model was calibrated on and
    what was found, empty where nothing was.
    """

    origin: Origin
    models: tuple[str, ...]
    version: int
    precision: str
    dialect: str | None
    opsets: dict[str, int]
    check: dict[str, float]
    created: str
    files: dict[str, str]
    quantisation: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the passport."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read a passport; None if it is missing or not of this form, for then the model is to be made anew."""
        try:
            raw = read_json(path)
            passport = cls(**{**raw, "models": tuple(raw["models"]), "origin": Origin(**raw["origin"])})
        except (SourceError, TypeError, KeyError):
            return None
        sums = (passport.files, passport.origin.source_files, passport.origin.versions, passport.origin.settings)
        return passport if all(isinstance(table, dict) for table in sums) else None

    def matches(self, origin: Origin, repository: Path) -> bool:
        """Whether the models were made from the same origin and all their files are as they were written."""
        return self.origin == origin and not self.damaged_files(repository)

    def damaged_files(self, repository: Path) -> list[str]:
        """Files, by path in the repository, that are missing or not as they were written."""
        return [name for name, expected in self.files.items() if _hash_or_none(repository / name) != expected]

    def extra_files(self, repository: Path) -> list[str]:
        """Files, by path in the repository, that lie in this version's folders and were not written by the export.

        A plan that was built there, and what Python compiles, are not among them.
        """
        own = {*self.files, *(f"{model}/{self.version}/{name}" for model in self.models for name in _LATER_FILES)}
        found = sorted(
            path.relative_to(repository).as_posix()
            for model in self.models
            for path in (repository / model / str(self.version)).rglob("*")
            if path.is_file() and path.parent.name != _COMPILED
        )
        return [name for name in found if name not in own]


def find_passports(repository: Path, name: str) -> dict[int, Passport]:
    """Passports of all versions that were exported under a name, by version."""
    loaded = (Passport.load(path) for path in repository.glob(f"{name}*/[0-9]*/{PASSPORT_FILE}"))
    return {
        passport.version: passport
        for passport in loaded
        if passport is not None and passport.origin.settings.get("name") == name
    }


def hash_outputs(staging: Path, models: Iterable[str]) -> dict[str, str]:
    """SHA-256 of all files of the models in a folder, by path."""
    files = sorted(path for model in models for path in (staging / model).rglob("*") if path.is_file())
    return {path.relative_to(staging).as_posix(): hash_file(path) for path in files}


def _hash_or_none(path: Path) -> str | None:
    return hash_file(path) if path.is_file() else None


def record_file(passport: Path, name: str, sha256: str) -> None:
    """Note in a model's passport that one of its files was changed on purpose; nothing happens where it has none."""
    try:
        raw = json.loads(passport.read_text(encoding="utf-8"))
        raw["files"][name] = sha256
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    changed = passport.with_suffix(".changed")
    changed.write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    changed.replace(passport)  # versions share files by hard links, so nothing is written in place


def now() -> str:
    """The present moment in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions(tools: tuple[str, ...]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for tool in tools:
        try:
            versions[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            versions[tool] = "not installed"
    return versions


def _held_out_files(spec: ModelSpec, folder: Path) -> dict[str, str]:
    """The questions that an LLM is judged on, which may lie beside its folder."""
    path = find_held_out(folder) if isinstance(spec, GenerateSpec) else None
    return {} if path is None else {path.name: hash_file(path)}


def _hash_code() -> str:
    """One sum over the code that decides what an export writes: its own, and the files that it copies."""
    digest = hashlib.sha256()
    for package in _CODE:
        spec = find_spec(package)
        origin = Path(spec.origin) if spec is not None and spec.origin is not None else Path()
        files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
        for path in files:
            digest.update(f"{package}/{path.name}".encode() + path.read_bytes())
    return digest.hexdigest()
