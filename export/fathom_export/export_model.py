"""One model from source to repository, or not at all."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fathom_export.errors import ExportError, SourceError
from fathom_export.spec import BuiltSpec, CascadeSpec, GenerateSpec, ModelSpec, VllmSpec, model_names, weights_model
from fathom_server.errors import SettingsError

if TYPE_CHECKING:
    from fathom_export.passport import Origin
    from fathom_export.repository.earlier_graph import EarlierGraph
    from fathom_export.sources import Source


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
    """What became of one model.

    ``version`` is the version that was written or found up to date, ``served`` the one that is served; ``files_bytes``
    is the size of all its Triton models' files, of every version kept.
    """

    name: str
    models: tuple[str, ...]
    version: int
    served: int
    was_up_to_date: bool
    files_bytes: int
    duration_s: float


def export_model(
    spec: ModelSpec,
    base: Path,
    repository: Path,
    reporter: Reporter,
    *,
    force: bool = False,
    promote: bool = True,
    accept_quality: str | None = None,
) -> Outcome:
    """Export a model unless the repository has it already, made from the same files, settings and versions.

    Relative sources are sought under ``base``. What is built becomes the next version of its Triton models, served
    unless ``promote`` is false, beside as many older ones as the spec keeps. They come into the repository together; if
    anything fails, what was there stays. A quality card that misses its thresholds fails, unless ``accept_quality``
    gives the reason why it may pass, which the card records. Raises ExportError.
    """
    from fathom_export.repository.staging import staged

    begin = time.monotonic()
    names = model_names(spec)
    reporter.begin(spec.name, f"finding {spec.source}")
    source, origin = find_origin(spec, base)
    reporter.begin(spec.name, "comparing with what is there")
    version = None if force else _version_of(origin, repository, spec)
    is_new = version is None
    if version is not None:
        served = _tidy(spec, repository, version)
    else:
        if isinstance(spec, GenerateSpec):
            from fathom_export.fit.gate import check_export

            check_export(spec, source.folder)
        with staged(repository, spec.name) as staging:
            earlier = None if force else _same_graph(origin, repository, spec)
            opsets, check = _build(spec, source, staging, reporter, earlier)
            if earlier is None and not isinstance(spec, VllmSpec | CascadeSpec):
                _judge(spec, source.folder, staging, reporter, accept_quality)
            version, served = _add_version(spec, origin, repository, staging, opsets, check, promote=promote)
    return Outcome(spec.name, names, version, served, not is_new, _size(repository, names), time.monotonic() - begin)


def find_origin(spec: ModelSpec, base: Path, *, fetch: bool = True) -> tuple["Source", "Origin"]:
    """The source and everything else that decides what an export would make now; raises SourceError.

    Without ``fetch`` nothing is downloaded.
    """
    from fathom_export.passport import Origin
    from fathom_export.sources import resolve_source

    try:
        source = resolve_source(spec.source, base, fetch=fetch, weights=not isinstance(spec, VllmSpec | CascadeSpec))
        return source, Origin.of(spec, source)
    except OSError as error:
        raise SourceError(f"{spec.source} cannot be fetched or read: {error}") from error


def _version_of(origin: "Origin", repository: Path, spec: ModelSpec) -> int | None:
    """The newest kept version that was made from this very origin and is whole."""
    from fathom_export.passport import find_passports
    from fathom_export.repository.versions import kept_versions

    kept = kept_versions(repository, model_names(spec))
    passports = find_passports(repository, spec.name)
    return next(
        (
            version
            for version in reversed(kept)
            if version in passports and passports[version].matches(origin, repository)
        ),
        None,
    )


def _same_graph(origin: "Origin", repository: Path, spec: ModelSpec) -> "EarlierGraph | None":
    """The graph and card of the newest kept version that differs in nothing but how it is served."""
    from fathom_export.passport import find_passports
    from fathom_export.repository.earlier_graph import EarlierGraph
    from fathom_export.repository.versions import kept_versions

    kept = kept_versions(repository, model_names(spec))
    passports = find_passports(repository, spec.name)
    for version in reversed(kept):
        passport = passports.get(version)
        if (
            passport is not None
            and passport.origin.graph_sha256 == origin.graph_sha256
            and not passport.damaged_files(repository)
        ):
            folder = repository / weights_model(spec) / str(version)
            return EarlierGraph(folder, passport.opsets, passport.check)
    return None


def _tidy(spec: ModelSpec, repository: Path, version: int) -> int:
    """Mend an edited config.pbtxt, and remove versions that the spec keeps no more; returns the version served."""
    from fathom_export.repository.staging import exclusive, staged, swap_in
    from fathom_export.repository.versions import (
        arrange,
        edited_configs,
        kept_versions,
        retained_versions,
        served_version,
    )

    names = model_names(spec)
    kept = kept_versions(repository, names)
    served = served_version(repository, names)
    if served not in kept:
        served = version
    retained = retained_versions({*kept}, served, spec.serving.keep_versions)
    if retained != kept or edited_configs(repository, names, served):
        with staged(repository, spec.name) as staging, exclusive(repository):
            arrange(staging, repository, names, retained, served)
            swap_in(staging, repository, names)
    return served


def _add_version(
    spec: ModelSpec,
    origin: "Origin",
    repository: Path,
    staging: Path,
    opsets: dict[str, int],
    check: dict[str, float],
    *,
    promote: bool,
) -> tuple[int, int]:
    """Number what was built and move it in; returns its version and the one that is served."""
    from fathom_export.passport import PASSPORT_FILE, Passport, find_passports, hash_outputs, now
    from fathom_export.quantise.lowering import read_report
    from fathom_export.repository.staging import exclusive, swap_in
    from fathom_export.repository.versions import (
        arrange,
        kept_versions,
        next_version,
        number_models,
        retained_versions,
        served_version,
    )

    names = model_names(spec)
    with exclusive(repository):
        version = next_version(repository, names)
        kept, before = kept_versions(repository, names), served_version(repository, names)
        served = version if promote or before not in kept or before is None else before
        retained = retained_versions({*kept, version}, served, spec.serving.keep_versions)
        number_models(staging, names, version)
        Passport(
            origin=origin,
            models=names,
            version=version,
            precision=spec.precision,
            dialect=spec.dialect if isinstance(spec, GenerateSpec) else None,
            opsets=opsets,
            check=check,
            created=now(),
            files=hash_outputs(staging, names),
            quantisation=read_report(staging / weights_model(spec) / str(version)),
        ).save(staging / weights_model(spec) / str(version) / PASSPORT_FILE)
        arrange(staging, repository, names, retained, served)
        earlier = {name for passport in find_passports(repository, spec.name).values() for name in passport.models}
        swap_in(staging, repository, names, sorted(earlier - {*names}))
    return version, served


def _build(
    spec: ModelSpec, source: "Source", staging: Path, reporter: Reporter, earlier: "EarlierGraph | None"
) -> tuple[dict[str, int], dict[str, float]]:
    """Build all models of a spec, of an earlier graph if there is one.

    Returns the graph's operator sets and the figures of its check; none where vLLM computes the source itself.
    """
    from fathom_export.graph_file import read_opsets
    from fathom_export.repository.model_config import VERSION
    from fathom_server.engine.settings import GRAPH_FILE
    from fathom_server.text.tokenizer import TextError

    if isinstance(spec, VllmSpec):
        from fathom_export.repository.vllm_models import write_vllm_models

        reporter.begin(spec.name, "writing the models around vLLM")
        try:
            write_vllm_models(spec, source, staging)
        except TextError as error:
            raise ExportError(f"{source.folder}: the tokenizer cannot be used: {error}") from error
        return {}, {}
    if isinstance(spec, CascadeSpec):
        from fathom_export.repository.cascade_models import write_cascade_models

        reporter.begin(spec.name, "writing the cascade")
        try:
            write_cascade_models(spec, source.folder, staging)
        except TextError as error:
            raise ExportError(f"{source.folder}: the tokenizer cannot be used: {error}") from error
        return {}, {}
    what = f"building the {spec.precision} graph" if earlier is None else f"taking the graph of {earlier.folder}"
    reporter.begin(spec.name, what)
    try:
        if not isinstance(spec, GenerateSpec):
            from fathom_export.repository.encoder_models import write_encoder_models

            graph = write_encoder_models(spec, source.folder, staging, reporter.advance, earlier)
            return graph.opsets, graph.check
        from fathom_export.repository.generate_models import write_generate_models

        check = write_generate_models(spec, source.folder, staging, reporter.advance, earlier)
        return read_opsets(staging / spec.name / VERSION / GRAPH_FILE), check
    except SettingsError as error:
        raise ExportError(f"{spec.name}: {error}") from error
    except TextError as error:
        raise ExportError(f"{source.folder}: the tokenizer cannot be used: {error}") from error


def _judge(spec: BuiltSpec, source: Path, staging: Path, reporter: Reporter, accept: str | None) -> None:
    """Write the quality card beside the weights; raises QualityError where it misses its thresholds."""
    from fathom_export.quality.judge import write_card
    from fathom_export.repository.model_config import VERSION
    from fathom_export.repository.staging import FP32_COPY
    from fathom_server.engine.settings import GRAPH_FILE

    reporter.begin(spec.name, "judging its quality")
    fp32_copy = staging / FP32_COPY
    version = staging / weights_model(spec) / VERSION
    lanes: list[tuple[BuiltSpec, Path]] = [(spec, version)]
    if isinstance(spec, GenerateSpec) and spec.fast_lane is not None:
        from fathom_export.repository.generate_models import lane_folder

        lanes.append((spec.fast_lane, lane_folder(spec, version)))
    for lane, folder in lanes:
        work = staging / f"judging-{lane.precision}"
        work.mkdir()
        write_card(
            lane,
            source,
            folder,
            work,
            fp32_copy / GRAPH_FILE if fp32_copy.is_dir() else None,
            reporter.advance,
            accept=accept,
        )


def _size(repository: Path, names: tuple[str, ...]) -> int:
    return sum(path.stat().st_size for name in names for path in (repository / name).rglob("*") if path.is_file())
