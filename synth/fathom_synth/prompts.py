"""The prompts of a job: each template over each row of its seeds, in order, with what could not be rendered."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom_synth.errors import JobError, SeedError
from fathom_synth.job import Job, PromptSettings, SamplingSettings
from fathom_synth.rows_file import FileRow, MalformedRow, read_rows
from fathom_synth.template import RowError, Template, read_template


@dataclass(frozen=True, slots=True)
class Prompt:
    """One conversation that is to be answered. ``key`` names it by all that decides its answers."""

    key: str
    name: str
    line: int
    messages: tuple[dict[str, str], ...]
    columns: Mapping[str, Any]
    json_schema: Mapping[str, Any] | None
    imposes_schema: bool
    sampling: SamplingSettings
    seed: int

    @property
    def user(self) -> str:
        """What the user says."""
        return self.messages[-1]["content"]


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row of seeds that gave no prompt."""

    prompt: str
    file: Path
    line: int
    reason: str
    raw: str


class PromptSource:
    """All prompts of a job, rendered anew each time it is walked through. ``teacher`` is part of each prompt's key."""

    def __init__(self, job: Job, teacher: Mapping[str, str | None]) -> None:
        self._job = job
        self._teacher = dict(teacher)
        self._kinds = [_Kind.read(settings, place) for place, settings in enumerate(job.prompts)]

    @property
    def schemas(self) -> list[Mapping[str, Any]]:
        """The JSON schemas that answers must fit."""
        return [kind.json_schema for kind in self._kinds if kind.json_schema is not None]

    @property
    def templates_sha256(self) -> dict[str, str]:
        """Each prompt's name, and the SHA-256 of its templates' sources."""
        return {kind.settings.name: kind.templates_sha256 for kind in self._kinds}

    def __iter__(self) -> Iterator[Prompt | Unusable]:
        """Walk through all rows. Raises SeedError and TemplateError where no row of a file can be used."""
        seen: Counter[str] = Counter()
        for kind in self._kinds:
            yield from self._of_kind(kind, seen)

    def _of_kind(self, kind: "_Kind", seen: "Counter[str]") -> Iterator[Prompt | Unusable]:
        settings = kind.settings
        path = settings.seeds or Path()
        rows = iter([FileRow(0, {})]) if settings.seeds is None else read_rows(settings.seeds)
        given, unusable = 0, None
        for number, row in enumerate(rows):
            if settings.limit is not None and number >= settings.limit:
                break
            if isinstance(row, MalformedRow):
                unusable = Unusable(settings.name, path, row.line, row.reason, row.raw)
                yield unusable
                continue
            try:
                messages = kind.messages(row.columns)
            except RowError as error:
                raw = json.dumps(row.columns, ensure_ascii=False, default=str)
                unusable = Unusable(settings.name, path, row.line, str(error), raw)
                yield unusable
                continue
            given += 1
            yield self._prompt(kind, row, messages, seen)
        if not given:
            what = f"; the last of them, line {unusable.line}: {unusable.reason}" if unusable else ""
            raise SeedError(f"{path if settings.seeds else settings.name}: gives no prompt at all{what}")

    def _prompt(
        self, kind: "_Kind", row: FileRow, messages: tuple[dict[str, str], ...], seen: "Counter[str]"
    ) -> Prompt:
        sampling = self._job.sampling_of(kind.settings)
        content = {
            "teacher": self._teacher, "messages": messages,
            "json_schema": kind.json_schema if kind.settings.impose_schema else None,
            "sampling": sampling.options(), "seed": self._job.seed,
        }  # fmt: skip
        asked = digest(content)
        seen[asked] += 1  # a row that comes twice is asked twice, with another seed
        key = digest([asked, seen[asked]])[:32]
        return Prompt(
            key=key,
            name=kind.settings.name,
            line=row.line,
            messages=messages,
            columns=row.columns,
            json_schema=kind.json_schema,
            imposes_schema=kind.settings.impose_schema,
            sampling=sampling,
            seed=int(key[:15], 16),
        )


@dataclass(frozen=True, slots=True)
class _Kind:
    """One ``[[prompts]]`` table with its templates compiled."""

    settings: PromptSettings
    user: Template
    system: Template | None
    json_schema: Mapping[str, Any] | None

    @classmethod
    def read(cls, settings: PromptSettings, place: int) -> "_Kind":
        where = f"prompts[{place}]"
        system = Template(settings.system, f"{where}.system") if settings.system is not None else None
        user = read_template(settings.template, settings.template_file, f"{where}.template")
        schema = None if settings.json_schema is None else read_schema(settings.json_schema)
        return cls(settings, user, system, schema)

    @property
    def templates_sha256(self) -> str:
        return digest([self.user.source, self.system.source if self.system else None])

    def messages(self, columns: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
        user = self.user.render(columns)
        if not user.strip():
            raise RowError(f"prompt {self.settings.name}: renders to nothing; give its columns values")
        system = self.system.render(columns).strip() if self.system else ""
        turns = [{"role": "system", "content": system}] if system else []
        return (*turns, {"role": "user", "content": user})


def read_schema(path: Path) -> Mapping[str, Any]:
    """Read a JSON schema. Raises JobError where it is none."""
    import jsonschema

    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(schema, dict):
            raise JobError(f"{path}: is a JSON {type(schema).__name__}; a schema is an object")
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror}); name a file of a JSON schema") from error
    except (ValueError, RecursionError) as error:
        raise JobError(f"{path}: is not JSON ({error})") from error
    except jsonschema.SchemaError as error:
        raise JobError(f"{path}: is no JSON schema ({error.message})") from error
    return schema


def digest(content: Any) -> str:
    """SHA-256 of a value's canonical JSON, hexadecimal."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()
