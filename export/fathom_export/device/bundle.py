"""From a checkpoint to a bundle within its budget, or not at all."""

import importlib.metadata
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fathom_export.decoder import build_decoder, eos_token_ids
from fathom_export.device.manifest import MANIFEST_FILE, Manifest, chat_frame
from fathom_export.device.measure import MemoryUse, measure, runs_within
from fathom_export.errors import ExportError, RepositoryError
from fathom_export.repository.tokenizer_files import copy_tokenizer
from fathom_export.sources import resolve_source
from fathom_export.sources.folder import hash_file
from fathom_export.sources.resolve import Source
from fathom_export.spec.device import DeviceSpec
from fathom_export.spec.quantisation import Quantisation
from fathom_server.engine.settings import NATIVE_GRAPH_FILE
from fathom_server.text.tokenizer import TextError, TextTokenizer

MB: Final = 1_000_000
PREFILL_CHUNK: Final = 64
GENERATE_FILE: Final = "generate.py"

_FORMS: Final = (("int8", None), ("int4", 32), ("int4", 128))
"""Precisions and block sizes, the best first: the order in which they are tried."""

_SESSION: Final = {"int8": {"session.x64quantprecision": "1"}}
"""x86 processors without VNNI would add u8 × s8 in 16 bits, which overflow; elsewhere the entry changes nothing."""


@dataclass(frozen=True, slots=True)
class DeviceBundle:
    """A bundle that was written: its size on disk and its memory, both in bytes."""

    folder: Path
    precision: str
    block_size: int | None
    size_bytes: int
    memory: MemoryUse

    @property
    def form(self) -> str:
        """Its precision in words."""
        return self.precision if self.block_size is None else f"{self.precision} in blocks of {self.block_size}"

    def excess(self, spec: DeviceSpec) -> float:
        """By what factor it goes beyond the budget, in what it goes beyond most; 1 or less where it keeps to it."""
        return max(
            self.size_bytes / (spec.max_size_mb * MB) if spec.max_size_mb else 0.0,
            self.memory.peak_bytes / (spec.max_memory_mb * MB) if spec.max_memory_mb else 0.0,
        )


def write_device_bundle(spec: DeviceSpec, base: Path) -> DeviceBundle:
    """Write the best form of an LLM that keeps to its budget in place of what its folder held.

    Relative paths are sought under ``base``. Raises ExportError, which says what comes nearest where nothing does.
    """
    target = base / (spec.output or f"device/{spec.name}")
    _check_target(target)
    source = resolve_source(spec.source, base)
    tried: list[DeviceBundle] = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fathom-device-", dir=target.parent) as staging:
            for precision, block_size in _FORMS:
                if spec.precision not in ("auto", precision):
                    continue
                folder = Path(staging) / f"{precision}-{block_size}"
                bundle = _build(spec, source, folder, precision, block_size)
                tried.append(bundle)
                if bundle.excess(spec) <= 1 and _runs_in_budget(spec, folder):
                    _swap_in(folder, target, Path(staging) / "retired")
                    return replace(bundle, folder=target)
                shutil.rmtree(folder)
    except OSError as error:
        raise RepositoryError(f"{target} cannot be written ({error}); name another output") from error
    raise ExportError(_over_budget(spec, tried))


def _build(spec: DeviceSpec, source: Source, folder: Path, precision: str, block_size: int | None) -> DeviceBundle:
    folder.mkdir()
    quantisation = Quantisation() if block_size is None else Quantisation(block_size=block_size)
    graph = build_decoder(
        source.folder,
        folder,
        dialect="cpu",
        precision="int8" if precision == "int8" else "int4",
        quantisation=quantisation,
        max_context=spec.max_context,
    )
    (folder / NATIVE_GRAPH_FILE).unlink(missing_ok=True)  # its operators are Fathom's own
    copy_tokenizer(source.folder, folder)
    try:
        chat = chat_frame(TextTokenizer.load(folder))
    except TextError as error:
        raise ExportError(f"{source.folder}: the tokenizer cannot be used: {error}") from error
    shutil.copyfile(Path(__file__).with_name(GENERATE_FILE), folder / GENERATE_FILE)
    manifest = Manifest(
        name=spec.name,
        precision=precision,
        block_size=block_size,
        layers=graph.layers,
        kv_heads=graph.kv_heads,
        head_dim=graph.head_dim,
        vocabulary=graph.vocabulary,
        max_context=spec.max_context,
        prefill_chunk=PREFILL_CHUNK,
        eos_token_ids=eos_token_ids(source.folder),
        chat=chat,
        session=_SESSION.get(precision, {}),
        source={"given": source.given, "revision": source.revision},
        versions={name: importlib.metadata.version(name) for name in ("fathom-export", "onnxruntime")},
        files={path.name: hash_file(path) for path in sorted(folder.iterdir())},
    )
    manifest.save(folder)
    memory = measure(folder)
    replace(manifest, memory=memory).save(folder)
    for cache in folder.glob("__pycache__"):
        shutil.rmtree(cache)
    return DeviceBundle(folder, precision, block_size, sum(path.stat().st_size for path in folder.iterdir()), memory)


def _runs_in_budget(spec: DeviceSpec, folder: Path) -> bool:
    return spec.max_memory_mb is None or runs_within(folder, int(spec.max_memory_mb * MB))


def _over_budget(spec: DeviceSpec, tried: list[DeviceBundle]) -> str:
    nearest = min(tried, key=lambda bundle: bundle.excess(spec))
    bounds = {"max_size_mb": spec.max_size_mb, "max_memory_mb": spec.max_memory_mb}
    budget = " and ".join(f"{name} = {value:g}" for name, value in bounds.items() if value is not None)
    return (
        f"no form of {spec.source} keeps to {budget}; nearest comes {nearest.form} with "
        f"{nearest.size_bytes / MB:.1f} MB on disk and {nearest.memory.peak_bytes / MB:.1f} MB of memory "
        f"({nearest.memory.baseline_bytes / MB:.1f} MB of it Python and ONNX Runtime) at max_context = "
        f"{spec.max_context}: raise the budget, shorten the context, or take a smaller model"
    )


def _check_target(target: Path) -> None:
    """Refuse to replace a folder that is no bundle."""
    if target.exists() and not target.is_dir():
        raise RepositoryError(f"{target} is a file; name a folder as output")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST_FILE).is_file():
        raise RepositoryError(f"{target} holds something else than a bundle (no {MANIFEST_FILE}); name another output")


def _swap_in(folder: Path, target: Path, retired: Path) -> None:
    if target.exists():
        os.rename(target, retired)  # noqa: PTH104 (beside shutil's)
    try:
        folder.rename(target)
    except OSError:
        if retired.exists():
            retired.rename(target)
        raise
