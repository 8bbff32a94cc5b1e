"""Whether an LLM that is about to be exported can run here, where its graph is checked and judged, and served."""

import os
from dataclasses import replace
from pathlib import Path

from fathom_export.decoder.architecture import DecoderArchitecture
from fathom_export.errors import FitError
from fathom_export.quantise.table import valid_precisions
from fathom_export.repository.generate_models import stored_model
from fathom_export.spec import DEFAULT_CONTEXT, GenerateSpec
from fathom_server.sizing.form import EngineForm
from fathom_server.sizing.gate import SWITCH, breakdown, in_words, nearest_settings
from fathom_server.sizing.machine_memory import memory_limit
from fathom_server.sizing.memory import EngineMemory
from fathom_server.sizing.shape import Precision


def check_export(spec: GenerateSpec, source: Path, limit: int | None = None) -> None:
    """Refuse a model of the cpu dialect whose engine, its cache full, takes more memory than there is.

    ``limit`` is in bytes; by default the machine's memory, or its control group's limit. Other dialects run on GPUs,
    for which ``fathom-fit --gpu`` tells. Raises FitError with the breakdown and the nearest settings that fit, and
    CheckpointError or UnsupportedArchitectureError where the headers do not bear the configuration out.
    """
    if spec.dialect != "cpu" or os.environ.get(SWITCH) == "0":
        return
    limit = memory_limit() if limit is None else limit
    if limit is None:
        return
    engine = spec_memory(spec, source)
    if engine.max_positions > DecoderArchitecture.load(source).context_limit:
        return  # no matter of memory: the build refuses such a context
    lane = spec.fast_lane
    lane_bytes = 0 if lane is None else _weights(lane, source)
    total = engine.full().total + lane_bytes
    if total <= limit:
        return
    room = limit - lane_bytes
    smaller = [
        precision
        for precision in valid_precisions("generate", "cpu")
        if precision != spec.precision and replace(engine, form=_form(precision, engine)).full().total <= room
    ]
    also = f"; as it is, it fits in {' or '.join(smaller)}" if smaller and spec.profile is None else ""
    raise FitError(
        f"{spec.name}: its engine takes up to {in_words(total)}, and there are {in_words(limit)} of memory"
        f"{breakdown(engine)}; {nearest_settings(engine, room)}{also}; or export where there is more memory, or with "
        f"{SWITCH}=0, for a machine that has more"
    )


def spec_memory(spec: GenerateSpec, source: Path) -> EngineMemory:
    """The memory of a spec's engine where Fathom's operators are built, from its source's headers."""
    stored = stored_model(spec, source)
    longest = DecoderArchitecture.load(source).max_positions
    context = int(spec.limits.get("max_context", min(DEFAULT_CONTEXT, longest)))
    limits = spec.engine_limits(context)
    form = EngineForm(
        spec.precision,
        "stock" if spec.precision == "fp32" else "native",
        stored.block_size,
        stored.zero_points,
        limits.kv_cache_dtype,
    )
    return EngineMemory(stored.shape, form, limits, context)


def _weights(lane: GenerateSpec, source: Path) -> int:
    engine = spec_memory(lane, source)
    return engine.form.weight_bytes(engine.shape)


def _form(precision: str, engine: EngineMemory) -> EngineForm:
    known: Precision = precision  # type: ignore[assignment]  # the table's
    return replace(engine.form, precision=known, runner="stock" if known == "fp32" else "native")
