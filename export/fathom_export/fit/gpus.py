"""The GPUs that a model may be sized for: ``gpus.toml``, and a file of the user's own."""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fathom_export.errors import FitError

GPUS_FILE: Final = Path(__file__).with_name("gpus.toml")

_GIGA: Final = 1e9
_GIB: Final = 1 << 30
_TERA: Final = 1e12
_EIGHTHS: Final = 8
_NUMBERS: Final = ("memory_gb", "bandwidth_gb_s", "fp16_tflops", "int8_tops", "link_gb_s", "compute_capability")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or a slice of one, by its data sheet: bytes, bytes a second, dense operations a second.

    ``fp8_per_s`` is 0 without fp8 units, ``link_bytes_per_s`` 0 for what cannot share a model with others. ``resource``
    is what Kubernetes' device plugin calls it.
    """

    name: str
    title: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    fp16_per_s: float
    fp8_per_s: float
    int8_per_s: float
    link_bytes_per_s: float
    compute_capability: float
    resource: str
    source: str
    note: str

    @property
    def has_fp8(self) -> bool:
        """Whether its tensor cores multiply fp8."""
        return self.fp8_per_s > 0


def load_gpus(own: Path | None = None) -> dict[str, Gpu]:
    """All GPUs by name, those of a file of the user's own, in the form of ``gpus.toml``, beside ours or in their place.

    Raises FitError giving file, GPU and remedy.
    """
    gpus = _read(GPUS_FILE, {})
    return gpus if own is None else gpus | _read(own, gpus)


def find_gpus(gpus: Mapping[str, Gpu], names: tuple[str, ...]) -> tuple[Gpu, ...]:
    """The GPUs of these names, or all where none is named; raises FitError naming those that there are."""
    for name in names:
        if name not in gpus:
            near = difflib.get_close_matches(name.lower(), gpus, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise FitError(
                f"--gpu {name!r} is unknown; {hint}there are {', '.join(gpus)}; describe others in a file and give it "
                "as --gpus"
            )
    return tuple(gpus[name] for name in names) or tuple(gpus.values())


def _read(path: Path, known: Mapping[str, Gpu]) -> dict[str, Gpu]:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FitError(
            f"{path} cannot be read as a table of GPUs ({error}); write it in the form of gpus.toml"
        ) from error
    gpus: dict[str, Gpu] = {}
    for number, table in enumerate(_tables(raw, "gpus", path)):
        gpu = _whole(table, f"{path}: gpus[{number}]")
        gpus[gpu.name] = gpu
    for number, table in enumerate(_tables(raw, "slices", path)):
        gpu = _slice(table, {**known, **gpus}, f"{path}: slices[{number}]")
        gpus[gpu.name] = gpu
    if not gpus:
        raise FitError(f"{path} describes no GPU; give at least one [[gpus]] table with {', '.join(_NUMBERS)}")
    return gpus


def _tables(raw: Mapping[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    tables = raw.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise FitError(f"{path}: {name} is no list of tables; write [[{name}]]")
    return tables


def _whole(table: Mapping[str, Any], where: str) -> Gpu:
    name = _text(table, "name", where)
    values = {key: _number(table, key, where) for key in _NUMBERS}
    return Gpu(
        name=name,
        title=str(table.get("title", name)),
        memory_bytes=round(values["memory_gb"] * _GIGA),
        bandwidth_bytes_per_s=values["bandwidth_gb_s"] * _GIGA,
        fp16_per_s=values["fp16_tflops"] * _TERA,
        fp8_per_s=_number(table, "fp8_tflops", where) * _TERA if "fp8_tflops" in table else 0.0,
        int8_per_s=values["int8_tops"] * _TERA,
        link_bytes_per_s=values["link_gb_s"] * _GIGA,
        compute_capability=values["compute_capability"],
        resource="nvidia.com/gpu",
        source=_text(table, "source", where),
        note=str(table.get("note", "")),
    )


def _slice(table: Mapping[str, Any], gpus: Mapping[str, Gpu], where: str) -> Gpu:
    name, of = _text(table, "name", where), _text(table, "of", where)
    if of not in gpus:
        raise FitError(f"{where}: of is {of!r}, which is no GPU of the table; there are {', '.join(gpus)}")
    share = table.get("sm_share")
    if not (isinstance(share, list) and len(share) == 2 and all(type(part) is int and part > 0 for part in share)):
        raise FitError(f"{where}: sm_share is {share!r}; give the slice's SMs and the GPU's, such as [16, 132]")
    whole, part = gpus[of], share[0] / share[1]
    return Gpu(
        name=name,
        title=f"{whole.title}, MIG {name.rpartition('mig-')[2]}",
        memory_bytes=round(_number(table, "memory_gib", where) * _GIB),
        bandwidth_bytes_per_s=whole.bandwidth_bytes_per_s * _number(table, "memory_eighths", where) / _EIGHTHS,
        fp16_per_s=whole.fp16_per_s * part,
        fp8_per_s=whole.fp8_per_s * part,
        int8_per_s=whole.int8_per_s * part,
        link_bytes_per_s=0.0,
        compute_capability=whole.compute_capability,
        resource=_text(table, "resource", where),
        source=_text(table, "source", where),
        note=f"a share of {whole.title}: {whole.source}",
    )


def _number(table: Mapping[str, Any], key: str, where: str) -> float:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
        raise FitError(f"{where}: {key} is {value!r}; give a number above 0")
    return float(value)


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise FitError(f"{where}: {key} is {value!r}; give a text that is not empty")
    return value
