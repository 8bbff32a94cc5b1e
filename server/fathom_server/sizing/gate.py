"""Whether what a repository's models take fits into this machine; asked before Triton is started."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fathom_server.engine.settings import EngineSettings
from fathom_server.errors import SettingsError
from fathom_server.sizing import constants
from fathom_server.sizing.form import EngineForm
from fathom_server.sizing.machine_memory import memory_limit
from fathom_server.sizing.memory import EngineMemory, largest

SWITCH: Final = "FATHOM_MEMORY_CHECK"
"""0 starts a server whatever its models take."""

_CONFIG: Final = "config.pbtxt"
_BACKEND: Final = re.compile(r'^\s*(?:backend|platform)\s*:\s*"([^"]*)"', re.MULTILINE)
_VERSIONS: Final = re.compile(r"\bversions\s*:\s*\[?\s*(\d+)")
_COUNT: Final = re.compile(r"\bcount\s*:\s*(\d+)")
_GIB: Final = 1 << 30
_MIB: Final = 1 << 20
_INT8: Final = "int8"


@dataclass(frozen=True, slots=True)
class ModelNeed:
    """What one model takes at most, in a sentence's words; ``engine`` for an LLM whose sizes are known."""

    name: str
    needed_bytes: int
    breakdown: str
    engine: EngineMemory | None = None


def check_memory(repository: Path, models: Iterable[str], limit: int | None = None) -> None:
    """Refuse a repository whose models, their caches full, take more than there is.

    ``limit`` is in bytes; by default the machine's memory, or its control group's limit where that is less. Models on a
    GPU, and LLMs exported before their sizes were kept, count as an empty process. Raises SettingsError with what each
    model takes and the nearest settings that fit.
    """
    if os.environ.get(SWITCH) == "0":
        return
    limit = memory_limit() if limit is None else limit
    if limit is None:
        return
    needs = [_need(repository / model) for model in models]
    total = constants.TRITON_PROCESS_BYTES + sum(need.needed_bytes for need in needs)
    if total <= limit:
        return
    largest_need = max(needs, key=lambda need: need.needed_bytes)
    parts = "; ".join(f"{need.name} {in_words(need.needed_bytes)}{need.breakdown}" for need in needs if need.breakdown)
    remedy = f"give it more memory, or serve fewer models; {SWITCH}=0 starts it all the same"
    if largest_need.engine is not None:
        room = limit - (total - largest_need.needed_bytes)
        remedy = f"{nearest_settings(largest_need.engine, room)} (export {largest_need.name} again); or {remedy}"
    raise SettingsError(
        f"the models of {repository} take up to {in_words(total)}, and there are {in_words(limit)} of memory: {parts}; "
        f"{remedy}"
    )


def nearest_settings(engine: EngineMemory, room: int) -> str:
    """The settings nearest to an engine's own with which it takes no more than ``room`` bytes, in words."""
    found = []
    limits, context = engine.limits, engine.limits.max_context

    def fits(kv_cache_tokens: int = 0, max_batch: int = limits.max_batch, max_context: int = context) -> bool:
        smaller = replace(limits, kv_cache_tokens=kv_cache_tokens, max_batch=max_batch, max_context=max_context)
        return replace(engine, limits=smaller).full().total <= room

    batch = largest(lambda number: fits(max_batch=number), limits.max_batch)
    if engine.form.runner in ("native", "cuda"):
        tokens = largest(lambda number: number < context or fits(kv_cache_tokens=number), engine.usable_tokens)
        if tokens >= context and fits(kv_cache_tokens=tokens):
            found.append(f"limits.kv_cache_tokens = {tokens} instead of {engine.usable_tokens}")
    if batch:
        found.append(f"limits.max_batch = {batch} instead of {limits.max_batch}")
    else:
        longest = largest(lambda number: fits(max_batch=1, max_context=number), context)
        if longest:
            found.append(f"limits.max_batch = 1 and limits.max_context = {longest} instead of {context}")
    if engine.form.runner == "native" and engine.form.kv_dtype != _INT8:
        smaller = replace(engine, form=replace(engine.form, kv_dtype=_INT8))
        if smaller.full().total <= room:
            found.append(f"limits.kv_cache_dtype = int8 instead of {engine.form.kv_dtype}")
    if not found:
        least = replace(engine, limits=replace(limits, max_batch=1, max_context=1, kv_cache_tokens=0)).full().total
        return f"no limit makes it fit, for without a cache it takes {in_words(least)}: choose a smaller model"
    return f"what fits: {', or '.join(found)}"


def engine_memory(folder: Path) -> list[EngineMemory]:
    """The engine of a version's folder, one for each lane; none where it runs on a GPU or its sizes are not known.

    Raises SettingsError where engine.json cannot be read.
    """
    from fathom_server.engine.plan_passport import PLAN_FILE
    from fathom_server.engine.runner.load import served_graph
    from fathom_server.engine.settings import NATIVE_GRAPH_FILE

    settings = EngineSettings.load(folder)
    if settings.stored is None or settings.graph.dialect == "cuda" or (folder / PLAN_FILE).is_file():
        return []
    is_native = served_graph(folder) == NATIVE_GRAPH_FILE
    lanes = [folder, folder / settings.fast_lane] if is_native and settings.fast_lane else [folder]
    found = []
    for lane in lanes:
        own = EngineSettings.load(lane)
        if own.stored is None:
            return []
        form = EngineForm(
            own.graph.precision,  # type: ignore[arg-type]  # export writes no other
            "native" if is_native else "stock",
            own.stored.block_size,
            own.stored.zero_points,
            settings.limits.kv_cache_dtype,
        )
        found.append(EngineMemory(own.stored.shape, form, settings.limits, own.graph.max_context))
    return found


def breakdown(engine: EngineMemory) -> str:
    """Weights, cache and the rest of a full engine, in brackets."""
    parts = ", ".join(f"{name} {in_words(size)}" for name, size in engine.full().parts if size >= _MIB)
    return f" ({parts.replace('KV cache, prompts', 'KV cache')})"


def in_words(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _MIB:.0f} MiB"


def _need(model: Path) -> ModelNeed:
    config = (model / _CONFIG).read_text(encoding="utf-8", errors="replace")
    backend = next(iter(_BACKEND.findall(config)), "")
    if backend == "ensemble":
        return ModelNeed(model.name, 0, "")
    folder = _served_folder(model, config)
    instances = max([int(count) for count in _COUNT.findall(config)], default=1)
    if backend == "fathom" and folder is not None:
        engines = _engines(folder)
        if not engines:
            return ModelNeed(model.name, constants.ENGINE_PROCESS_BYTES, "")
        main = engines[0]
        extra = sum(lane.form.weight_bytes(lane.shape) for lane in engines[1:])
        return ModelNeed(model.name, main.full().total + extra, breakdown(main), main)
    weights = 0 if folder is None else sum(file.stat().st_size for file in folder.glob("model.onnx*"))
    size = instances * constants.TOKENIZER_PROCESS_BYTES + weights
    return ModelNeed(model.name, size, f" (weights {in_words(weights)})" if weights else "")


def _engines(folder: Path) -> list[EngineMemory]:
    try:
        return engine_memory(folder)
    except SettingsError:
        return []  # the model itself says what is wrong with it, and others are served


def _served_folder(model: Path, config: str) -> Path | None:
    """The version that Triton serves: the one that the policy names, else the newest."""
    numbers = [int(entry.name) for entry in model.iterdir() if entry.is_dir() and entry.name.isdigit()]
    named = [int(number) for number in _VERSIONS.findall(config)]
    number = max((one for one in numbers if not named or one in named), default=None)
    return None if number is None else model / str(number)
