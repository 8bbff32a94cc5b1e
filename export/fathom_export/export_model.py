"""One model from source to repository, or not at all."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fathom_export.errors import ExportError, SourceError
from fathom_export.spec import EmbedSpec, GenerateSpec, ModelSpec, model_names
from fathom_server.errors import SettingsError


class Reporter(Protocol):
    """Who is told how an export goes on."""

    def begin(self, model: str, step: str) -> None:
        """A step of a model begins."""
        ...

    def advance(self, done: int, total: int) -> None:
        """So much of the step is done."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one model; ``files_bytes`` is the size of all its Triton models' files."""

    name: str
    models: tuple[str, ...]
    was_up_to_date: bool
    files_bytes: int
    duration_s: float


def export_model(spec: ModelSpec, base: Path, repository: Path, reporter: Reporter, *, force: bool = False) -> Outcome:
    """Export a model unless the repository has it already, made from the same files, settings and versions.

    Relative sources are sought under ``base``. Its Triton models come into the repository together; if anything fails,
    what was there stays. Raises ExportError.
    """
    from fathom_export.passport import PASSPORT_FILE, Origin, Passport, hash_outputs, now
    from fathom_export.repository.model_config import VERSION
    from fathom_export.repository.staging import staged, swap_in
    from fathom_export.sources import resolve_source

    begin = time.monotonic()
    names = model_names(spec)
    reporter.begin(spec.name, f"finding {spec.source}")
    try:
        source = resolve_source(spec.source, base)
        reporter.begin(spec.name, "comparing with what is there")
        origin = Origin.of(spec, source)
    except OSError as error:
        raise SourceError(f"{spec.source} cannot be fetched or read: {error}") from error
    weights_model = names[0] if isinstance(spec, GenerateSpec) else names[2]
    passport_path = Path(weights_model) / VERSION / PASSPORT_FILE
    passport = Passport.load(repository / passport_path)
    if not force and passport is not None and passport.matches(origin, repository):
        return Outcome(spec.name, names, True, _size(repository, names), time.monotonic() - begin)

    with staged(repository, spec.name) as staging:
        opsets, check = _build(spec, source.folder, staging, reporter)
        Passport(
            origin=origin,
            precision=spec.precision,
            dialect=spec.dialect if isinstance(spec, GenerateSpec) else None,
            opsets=opsets,
            check=check,
            created=now(),
            files=hash_outputs(staging, names),
        ).save(staging / passport_path)
        swap_in(staging, repository, names)
    return Outcome(spec.name, names, False, _size(repository, names), time.monotonic() - begin)


def _build(spec: ModelSpec, source: Path, staging: Path, reporter: Reporter) -> tuple[dict[str, int], dict[str, float]]:
    """Build all models of a spec; returns the graph's operator sets and the figures of its check."""
    from fathom_export.graph_file import read_opsets
    from fathom_export.repository.model_config import VERSION
    from fathom_server.engine.settings import GRAPH_FILE
    from fathom_server.text.tokenizer import TextError

    reporter.begin(spec.name, f"building the {spec.precision} graph")
    try:
        if isinstance(spec, EmbedSpec):
            from fathom_export.repository.embed_models import write_embed_models

            graph = write_embed_models(spec, source, staging, reporter.advance)
            return graph.opsets, graph.check
        from fathom_export.repository.generate_models import write_generate_models

        check = write_generate_models(spec, source, staging, reporter.advance)
        return read_opsets(staging / spec.name / VERSION / GRAPH_FILE), check
    except SettingsError as error:
        raise ExportError(f"{spec.name}: {error}") from error
    except TextError as error:
        raise ExportError(f"{source}: the tokenizer cannot be used: {error}") from error


def _size(repository: Path, names: tuple[str, ...]) -> int:
    return sum(path.stat().st_size for name in names for path in (repository / name).rglob("*") if path.is_file())
