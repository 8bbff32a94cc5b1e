"""A ``bundle.toml``: the file, its models, and what is wrong with it."""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fathom_export.errors import SpecError
from fathom_export.spec.device import DeviceSpec
from fathom_export.spec.key import path_of, read_choice, read_table, refuse_unknown
from fathom_export.spec.model_spec import (
    ENGINES,
    SPECS,
    CascadeSpec,
    EmbedSpec,
    GenerateSpec,
    ModelSpec,
    RerankSpec,
    VllmSpec,
    model_names,
)
from fathom_export.spec.profile import with_profile

DEFAULT_BUNDLE: Final = "bundle.toml"
DEFAULT_REPOSITORY: Final = "model_repository"
MAX_BUNDLE_BYTES: Final = 1 << 20

CALIBRATION_SUFFIX: Final = ".calibration"
"""Behind a cascade's name: the folder of its calibration, unless it has another."""

REPOSITORY_KEY: Final = "repository"
MODELS_KEY: Final = "models"
DEVICES_KEY: Final = "devices"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Everything in a ``bundle.toml``; relative paths in it are relative to the file's folder."""

    folder: Path
    repository: Path
    models: tuple[ModelSpec, ...]


def read_bundle(path: Path) -> Bundle:
    """Read a bundle's file; raises SpecError giving file, key and remedy."""
    raw = _read_toml(path)
    try:
        refuse_unknown(raw, (REPOSITORY_KEY, MODELS_KEY, DEVICES_KEY), "")
        repository = raw.get(REPOSITORY_KEY, DEFAULT_REPOSITORY)
        if not isinstance(repository, str) or not repository.strip() or not repository.isprintable():
            raise SpecError(f"{REPOSITORY_KEY} is {repository!r}; it must be a text that is not empty")
        tables = raw.get(MODELS_KEY)
        if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
            raise SpecError("models is missing or empty; describe at least one model in a [[models]] table")
        models = tuple(read_model(table, f"{MODELS_KEY}[{number}]") for number, table in enumerate(tables))
        _refuse_collisions(models)
        _refuse_missing_drafts(models)
        models = _complete_cascades(models)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
    folder = path.resolve().parent
    return Bundle(folder, folder / repository, tuple(_placed(spec, folder) for spec in models))


def read_devices(path: Path) -> tuple[DeviceSpec, ...]:
    """The LLMs for devices of a bundle's file; raises SpecError as ``read_bundle``, or if there is none."""
    raw = _read_toml(path)
    try:
        refuse_unknown(raw, (REPOSITORY_KEY, MODELS_KEY, DEVICES_KEY), "")
        tables = raw.get(DEVICES_KEY)
        if not isinstance(tables, list) or not tables:
            raise SpecError("devices is missing or empty; describe at least one LLM in a [[devices]] table")
        specs = []
        for number, table in enumerate(tables):
            where = f"{DEVICES_KEY}[{number}]"
            try:
                specs.append(DeviceSpec(**read_table(DeviceSpec, table, where)))
            except SpecError as error:
                raise error if str(error).startswith(where) else SpecError(path_of(where, str(error))) from error
        outputs = [spec.output or spec.name for spec in specs]
        for output in outputs:
            if outputs.count(output) > 1:
                raise SpecError(f"two devices write {output!r}; give each an output of its own")
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
    return tuple(specs)


def read_model(table: Mapping[str, Any], where: str) -> ModelSpec:
    """A model's table, checked; ``where`` begins the keys in messages. Raises SpecError."""
    task = read_choice(table, "task", where, tuple(SPECS))
    kind: type[ModelSpec] = SPECS[task]  # type: ignore[index]  # it is one of its keys
    known: tuple[str, ...] = ("task",)
    if task == "generate":
        known = ("task", "engine")
        if "engine" in table:
            kind = ENGINES[read_choice(table, "engine", where, tuple(ENGINES))]  # type: ignore[index]  # as above
    values = read_table(kind, table, where, also=known)
    try:
        return kind(**(with_profile(values) if kind is GenerateSpec else values))
    except SpecError as error:
        raise SpecError(path_of(where, str(error))) from error


def _placed(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The spec with the paths of its texts, relative to the bundle until now, made whole."""
    if isinstance(spec, VllmSpec):
        return spec
    if isinstance(spec, CascadeSpec):
        own = spec.cascade
        calibration = own.calibration or f"{spec.name}{CALIBRATION_SUFFIX}"
        hook = str(folder / own.hook) if own.hook else ""
        return replace(spec, cascade=replace(own, calibration=str(folder / calibration), hook=hook))
    if spec.quality.evaluation_text:
        text = str(folder / spec.quality.evaluation_text)
        spec = replace(spec, quality=replace(spec.quality, evaluation_text=text))  # type: ignore[arg-type]  # same type
    if spec.quantisation.calibration_text:
        text = str(folder / spec.quantisation.calibration_text)
        spec = replace(spec, quantisation=replace(spec.quantisation, calibration_text=text))  # type: ignore[arg-type]
    return spec


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BUNDLE_BYTES + 1)
    except FileNotFoundError as error:
        raise SpecError(f"{path} does not exist; name a bundle file, or a source with --name and --task") from error
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error}") from error
    if len(content) > MAX_BUNDLE_BYTES:
        raise SpecError(f"{path} is larger than {MAX_BUNDLE_BYTES} bytes; it is no bundle")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not TOML: {error}") from error
    except (RecursionError, ValueError) as error:  # nested too deep; a date or a number that Python cannot hold
        raise SpecError(f"{path} is not TOML that can be read: {error}") from error


def _refuse_collisions(models: Collection[ModelSpec]) -> None:
    owners: dict[str, str] = {}
    for spec in models:
        for name in model_names(spec):
            if name in owners:
                raise SpecError(
                    f"model {spec.name!r} makes a model named {name!r}, as {owners[name]!r} does already; rename one"
                )
            owners[name] = spec.name


def _refuse_missing_drafts(models: Collection[ModelSpec]) -> None:
    names = {spec.name for spec in models if isinstance(spec, GenerateSpec)}
    for number, spec in enumerate(models):
        if not isinstance(spec, GenerateSpec) or not spec.speculation.draft:
            continue
        others = sorted(names - {spec.name})
        if spec.speculation.draft_model not in others:
            choice = f"name one of {', '.join(others)}" if others else "describe it in another [[models]] table"
            raise SpecError(
                f"{MODELS_KEY}[{number}].speculation.draft is {spec.speculation.draft!r}, which is no other LLM of "
                f"this bundle; {choice}"
            )


def _complete_cascades(models: Sequence[ModelSpec]) -> tuple[ModelSpec, ...]:
    """The models, cascades with the source of their tokenizer; raises SpecError for parts that are not there."""
    completed = []
    for number, spec in enumerate(models):
        if isinstance(spec, CascadeSpec):
            _refuse_missing_parts(spec, models, f"{MODELS_KEY}[{number}].cascade")
            small = next(each for each in models if each.name == spec.cascade.small)
            spec = spec if spec.source else replace(spec, source=small.source)
        completed.append(spec)
    return tuple(completed)


def _refuse_missing_parts(spec: CascadeSpec, models: Sequence[ModelSpec], where: str) -> None:
    llms = (GenerateSpec, VllmSpec)
    parts: dict[str, tuple[str, str, tuple[type, ...]]] = {"small": (spec.cascade.small, "LLM", llms)}
    if not spec.cascade.large_url:
        parts["large"] = (spec.cascade.large, "LLM", llms)
    if spec.cascade.encoder:
        parts["encoder"] = (spec.cascade.encoder, "model of task embed", (EmbedSpec,))
    if spec.cascade.verifier:
        parts["verifier"] = (spec.cascade.verifier, "model of task rerank", (RerankSpec,))
    for key, (name, what, kinds) in parts.items():
        names = sorted(each.name for each in models if isinstance(each, kinds))
        if name not in names:
            choice = f"name one of {', '.join(names)}" if names else "describe one in another [[models]] table"
            raise SpecError(f"{where}.{key} is {name!r}, which is no {what} of this bundle; {choice}")
