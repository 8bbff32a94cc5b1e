"""Objectives from flags and from a TOML file."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.gate.objective import Objective

_EXAMPLE: Final = 'objectives = ["ttft_ms.p95 <= 200", "error_rate <= 0.01"]'
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Objectives:
    """Objectives of every stage, and further ones of single stages by their label."""

    every: tuple[Objective, ...] = ()
    of_stage: dict[str, tuple[Objective, ...]] = field(default_factory=dict)

    @classmethod
    def gather(cls, texts: Sequence[str], file: Path | None) -> "Objectives":
        """Join the objectives of flags (comma-separated lists) and of a file; raises ScenarioError."""
        flagged = tuple(Objective.parse(part) for text in texts for part in text.split(","))
        read = cls() if file is None else cls.read(file)
        return cls((*flagged, *read.every), read.of_stage)

    @classmethod
    def read(cls, path: Path) -> "Objectives":
        """Read a TOML file: ``objectives``, a list of texts, and the same under ``[stages."8 users"]``.

        Raises ScenarioError naming the file, the key and what is wrong.
        """
        content = _read_toml(path)
        unknown = content.keys() - {"objectives", "stages"}
        if unknown:
            raise ScenarioError(f"{path}: {sorted(unknown)[0]!r} is not a known key; valid: objectives, stages")
        stages = content.get("stages", {})
        if not isinstance(stages, dict):
            raise ScenarioError(f'{path}: stages must be tables such as [stages."8 users"]')
        of_stage = {}
        for label, table in stages.items():
            if not isinstance(table, dict) or table.keys() != {"objectives"}:
                raise ScenarioError(f"{path}: stages.{label!r} must hold objectives and nothing else: {_EXAMPLE}")
            of_stage[label] = _objectives(table["objectives"], f"{path}: stages.{label!r}")
        every = _objectives(content.get("objectives", []), str(path))
        if not every and not any(of_stage.values()):
            raise ScenarioError(f"{path}: holds no objective; write {_EXAMPLE}")
        return cls(every, of_stage)

    def __bool__(self) -> bool:
        return bool(self.every) or any(self.of_stage.values())


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read ({error.strerror}); name a TOML file of objectives") from error
    if len(content) > _MAX_BYTES:
        raise ScenarioError(f"{path}: is larger than {_MAX_BYTES} bytes; it is no file of objectives")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # also what is no UTF-8
        raise ScenarioError(f"{path}: is not TOML ({error}); write {_EXAMPLE}") from error


def _objectives(texts: object, where: str) -> tuple[Objective, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ScenarioError(f"{where}: objectives is {texts!r}; it must be a list of texts: {_EXAMPLE}")
    try:
        return tuple(Objective.parse(text) for text in texts)
    except ScenarioError as error:
        raise ScenarioError(f"{where}: {error}") from error
