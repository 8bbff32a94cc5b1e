"""What to build: the models of a ``bundle.toml``, or the one model that the command line names."""

import difflib
import math
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from fathom_export.errors import SpecError
from fathom_server.engine.settings import Dialect, EngineLimits
from fathom_server.errors import SettingsError

Task = Literal["generate", "embed"]
Precision = Literal["fp32", "int8"]

DEFAULT_REPOSITORY: Final = "model_repository"
DEFAULT_DIALECT: Final[Dialect] = "cpu"
DEFAULT_CONTEXT: Final = EngineLimits().max_context

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_BUNDLE_KEYS: Final = ("repository", "models")


@dataclass(frozen=True, slots=True)
class EncoderLimits:
    """What an encoder takes on at once.

    ``max_batch`` texts are computed together, ``max_queue`` requests wait (0: no bound); a text has at most
    ``max_context`` tokens; the batcher holds a request up to ``max_queue_delay_us`` for company; ``instances`` sessions
    of ``threads`` threads each compute (0 threads: every core).
    """

    max_batch: int = 32
    max_queue: int = 256
    max_context: int = 512
    max_queue_delay_us: int = 0
    instances: int = 1
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_context", "instances"):
            if getattr(self, name) < 1:
                raise SpecError(f"limits.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("max_queue", "max_queue_delay_us", "threads"):
            if getattr(self, name) < 0:
                raise SpecError(f"limits.{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True, slots=True)
class GenerateSpec:
    """An LLM to build.

    ``limits`` holds the values that were given; EngineLimits has the defaults of the rest. Without ``max_context`` the
    model's own context counts, up to 2,048 tokens.
    """

    name: str
    source: str
    precision: Precision = "fp32"
    dialect: Dialect = DEFAULT_DIALECT
    limits: Mapping[str, int | float] = field(default_factory=dict)
    task: Literal["generate"] = "generate"

    def __post_init__(self) -> None:
        try:
            EngineLimits(**self.limits)  # type: ignore[arg-type]  # read_limits has checked the types
        except SettingsError as error:
            raise SpecError(str(error)) from error

    def engine_limits(self, max_context: int) -> EngineLimits:
        """All limits, with this context."""
        return EngineLimits(**{**self.limits, "max_context": max_context})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class EmbedSpec:
    """A text encoder to build; ``limits`` as for an LLM, with the defaults of EncoderLimits."""

    name: str
    source: str
    precision: Precision = "fp32"
    limits: Mapping[str, int | float] = field(default_factory=dict)
    task: Literal["embed"] = "embed"

    def __post_init__(self) -> None:
        EncoderLimits(**self.limits)  # type: ignore[arg-type]

    def encoder_limits(self, max_context: int) -> EncoderLimits:
        """All limits, with this context."""
        return EncoderLimits(**{**self.limits, "max_context": max_context})  # type: ignore[arg-type]


ModelSpec = GenerateSpec | EmbedSpec


@dataclass(frozen=True, slots=True)
class Bundle:
    """Everything in a ``bundle.toml``; relative paths in it are relative to the file's folder."""

    folder: Path
    repository: Path
    models: tuple[ModelSpec, ...]


def read_bundle(path: Path) -> Bundle:
    """Read a bundle's file; raises SpecError giving file, key and remedy."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpecError(f"{path} does not exist; name a bundle file, or a source with --name and --task") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path} is not TOML: {error}") from error
    try:
        _refuse_unknown(raw, _BUNDLE_KEYS, "")
        repository = _text(raw, "repository", "", DEFAULT_REPOSITORY)
        tables = raw.get("models")
        if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
            raise SpecError("models is missing or empty; describe at least one model in a [[models]] table")
        models = tuple(read_model(table, f"models[{number}]") for number, table in enumerate(tables))
        _refuse_collisions(models)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
    folder = path.resolve().parent
    return Bundle(folder, folder / repository, models)


def read_model(table: Mapping[str, Any], where: str) -> ModelSpec:
    """A model's table, checked; ``where`` begins the keys in messages. Raises SpecError."""
    task = _choice(table, "task", where, get_args(Task))
    keys = ("name", "source", "task", "precision", "limits", *(("dialect",) if task == "generate" else ()))
    _refuse_unknown(table, keys, where)
    name = _text(table, "name", where)
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{_key(where, 'name')} is {name!r}; use 1 to 63 letters, digits, '_', '-' or '.', beginning with a letter "
            "or digit"
        )
    source = _text(table, "source", where)
    precision = _choice(table, "precision", where, get_args(Precision), "fp32")
    allowed = EngineLimits if task == "generate" else EncoderLimits
    limits = _read_limits(table.get("limits", {}), allowed, _key(where, "limits"))
    try:
        if task == "generate":
            dialect = _choice(table, "dialect", where, get_args(Dialect), DEFAULT_DIALECT)
            return GenerateSpec(name, source, precision, dialect, limits)
        return EmbedSpec(name, source, precision, limits)
    except SpecError as error:
        raise SpecError(f"{where}.{error}" if where else str(error)) from error


def model_names(spec: ModelSpec) -> tuple[str, ...]:
    """Names of the Triton models that a spec makes, the one that answers callers first."""
    parts = ("tokenizer", "ensemble") if isinstance(spec, GenerateSpec) else ("tokenizer", "encoder")
    return (spec.name, *(f"{spec.name}_{part}" for part in parts))


def spec_settings(spec: ModelSpec) -> dict[str, Any]:
    """A spec as JSON values, for the passport."""
    return {**asdict(spec), "limits": dict(spec.limits)}


def _refuse_collisions(models: Collection[ModelSpec]) -> None:
    owners: dict[str, str] = {}
    for spec in models:
        for name in model_names(spec):
            if name in owners:
                raise SpecError(
                    f"model {spec.name!r} makes a model named {name!r}, as {owners[name]!r} does already; rename one"
                )
            owners[name] = spec.name


def _read_limits(raw: object, limits: type[EngineLimits | EncoderLimits], where: str) -> dict[str, int | float]:
    if not isinstance(raw, dict):
        raise SpecError(f"{where} is {raw!r}; it must be a table of numbers, such as {{ max_batch = 16 }}")
    kinds = {limit.name: limit.type for limit in fields(limits)}
    _refuse_unknown(raw, kinds, where)
    for key, value in raw.items():
        whole = kinds[key] is int
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not math.isfinite(value):
            raise SpecError(f"{where}.{key} is {value!r}; it must be a {'whole ' if whole else ''}number")
    return dict(raw)


def _refuse_unknown(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(known)}"
            raise SpecError(f"{_key(where, key)} is not a known key; {hint}")


def _text(table: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if value is None:
        raise SpecError(f'{_key(where, key)} is missing; add {key} = "..."')
    if not isinstance(value, str) or not value.strip():
        raise SpecError(f"{_key(where, key)} is {value!r}; it must be a text that is not empty")
    return value


def _choice(table: Mapping[str, Any], key: str, where: str, valid: tuple[Any, ...], default: str | None = None) -> Any:
    value = table.get(key, default)
    if value is None:
        raise SpecError(f"{_key(where, key)} is missing; valid values: {', '.join(valid)}")
    if value not in valid:
        near = difflib.get_close_matches(str(value), valid, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"valid values: {', '.join(valid)}"
        raise SpecError(f"{_key(where, key)} is {value!r}; {hint}")
    return value


def _key(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
