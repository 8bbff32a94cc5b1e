"""Weights of a checkpoint folder: safetensors, one tensor at a time, never pickle."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self

import ml_dtypes
import numpy as np
import numpy.typing as npt

from fathom_export.decoder.config_values import read_json_object
from fathom_export.errors import CheckpointError

WEIGHTS_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"

BLOCK_VALUES: Final = 16 * 1024 * 1024
"""How much of a large tensor is in memory at once: 64 MiB of it in float32."""

_PICKLE_PATTERNS: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_TEXT_PREFIXES: Final[Mapping[str, str]] = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
_VISION_PREFIXES: Final = tuple(
    prefix + part for prefix in ("", "model.") for part in ("vision_tower.", "multi_modal_projector.")
)
"""Of transformers' models of text and pictures, before its version 4.52 and since."""
_HEADER_LENGTH_BYTES: Final = 8
_GIT_LFS_POINTER: Final = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a safetensors file, not yet read.

    ``begin`` is its first byte in the file, ``dtype`` as the file's header spells it. Its values are read times
    ``factor``.
    """

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    factor: float = 1.0

    @property
    def stored_bytes(self) -> int:
        """What its values take in the file."""
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize

    def times(self, factor: float) -> Self:
        """The same tensor, to be read times a factor."""
        return replace(self, factor=self.factor * factor)

    def rows(self, begin: int, count: int) -> Self:
        """``count`` rows of the tensor's first axis, from row ``begin`` on."""
        row_bytes = math.prod(self.shape[1:]) * _DTYPES[self.dtype].itemsize
        return replace(self, shape=(count, *self.shape[1:]), begin=self.begin + begin * row_bytes)

    def read(self) -> npt.NDArray[np.float32]:
        """The values in float32, times the factor. Raises CheckpointError if any is infinite or not a number."""
        values = self._load().astype(np.float32)
        if self.factor != 1:
            values *= np.float32(self.factor)
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.path}: tensor {self.name} holds values that are infinite or not a number")
        return values

    def equals(self, other: Self) -> bool:
        """Whether both hold the same values in the same dtype."""
        if self.dtype != other.dtype or self.shape != other.shape:
            return False
        pairs = zip(self.row_blocks(), other.row_blocks(), strict=True)
        return all(np.array_equal(some._load(), others._load()) for some, others in pairs)

    def row_blocks(self) -> Iterator[Self]:
        """The same tensor in pieces of whole rows, each of about ``BLOCK_VALUES`` values."""
        rows = max(1, BLOCK_VALUES // max(1, math.prod(self.shape[1:])))
        for begin in range(0, self.shape[0], rows):
            yield self.rows(begin, min(rows, self.shape[0] - begin))

    def _load(self) -> npt.NDArray[Any]:
        # Not a memory map, whose pages would count as this process's memory.
        dtype, count = _DTYPES[self.dtype], math.prod(self.shape)
        return np.fromfile(self.path, dtype, count, offset=self.begin).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Every tensor of a folder's ``model.safetensors`` or of the shards that its index names, by name."""

    source: Path
    tensors: Mapping[str, StoredTensor]

    @classmethod
    def open(cls, source: Path) -> Self:
        """Read the headers, no weights. Raises CheckpointError naming the file and the remedy."""
        if (source / WEIGHTS_FILE).exists():
            return cls(source, _read_header(source / WEIGHTS_FILE))
        if (source / INDEX_FILE).exists():
            return cls(source, _read_shards(source))
        pickled = sorted(path.name for pattern in _PICKLE_PATTERNS for path in source.glob(pattern))
        if pickled:
            raise CheckpointError(
                f"{source} holds only pickled weights ({', '.join(pickled)}), which can run code when read; convert "
                "them where you trust them: load the model in transformers and call "
                "model.save_pretrained(FOLDER, safe_serialization=True)"
            )
        raise CheckpointError(f"{source} holds no weights: neither {WEIGHTS_FILE} nor {INDEX_FILE} is there")

    def text_part(self) -> Self:
        """The decoder of a model that also reads pictures, under the names of a decoder by itself."""
        tensors = {}
        for name, stored in self.tensors.items():
            plain = next(
                (to + name.removeprefix(old) for old, to in _TEXT_PREFIXES.items() if name.startswith(old)), name
            )
            if not plain.startswith(_VISION_PREFIXES):
                tensors[plain] = stored
        return replace(self, tensors=tensors)

    def tensor(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """A tensor by name. Raises CheckpointError if it is missing, or if its dtype or shape is not the expected."""
        stored = self.tensors.get(name)
        if stored is None:
            raise CheckpointError(f"{self.source}: the weights lack tensor {name}; the checkpoint is incomplete")
        if stored.shape != shape:
            raise CheckpointError(
                f"{stored.path}: tensor {name} has shape {list(stored.shape)}, but config.json asks for {list(shape)}"
            )
        if stored.dtype not in _DTYPES:
            raise CheckpointError(
                f"{stored.path}: tensor {name} is of dtype {stored.dtype}; readable: {', '.join(_DTYPES)}"
            )
        return stored


def _read_shards(source: Path) -> dict[str, StoredTensor]:
    index = source / INDEX_FILE
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; download the checkpoint again")
    shards: dict[str, dict[str, StoredTensor]] = {}
    for shard in sorted(set(map(str, weight_map.values()))):
        # Only the spelling is judged: in a hub cache each file is itself a link out of the folder.
        relative = PurePosixPath(shard)
        if relative.is_absolute() or ".." in relative.parts or "\\" in shard:
            raise CheckpointError(f"{index} names shard {shard!r}, which leaves the checkpoint's folder; do not use it")
        if not (source / relative).is_file():
            raise CheckpointError(
                f"{index} names shard {shard!r}, but the file is absent; download the checkpoint again"
            )
        shards[shard] = _read_header(source / relative)
    tensors = {}
    for name, shard in weight_map.items():
        if name not in shards[str(shard)]:
            raise CheckpointError(f"{index} says that {shard!r} holds tensor {name}, but it does not")
        tensors[name] = shards[str(shard)][name]
    return tensors


def _read_header(path: Path) -> dict[str, StoredTensor]:
    """Parse a safetensors header and hold it against the file's size."""
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_GIT_LFS_POINTER))
        if start == _GIT_LFS_POINTER:
            raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in its repository")
        header_bytes = int.from_bytes(start[:_HEADER_LENGTH_BYTES], "little")
        if file_bytes < _HEADER_LENGTH_BYTES or header_bytes > file_bytes - _HEADER_LENGTH_BYTES:
            raise CheckpointError(
                f"{path} is truncated: its header should take {header_bytes} bytes, but the file has only "
                f"{file_bytes}; download it again"
            )
        file.seek(_HEADER_LENGTH_BYTES)
        raw = file.read(header_bytes)
    try:
        header: dict[str, Any] = json.loads(raw)
        header.pop("__metadata__", None)
        data_begin = _HEADER_LENGTH_BYTES + header_bytes
        return {
            name: stored_tensor(name, path, entry, data_begin, file_bytes - data_begin)
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error!r}); download it again") from error


def stored_tensor(name: str, path: Path, entry: dict[str, Any], data_begin: int, data_bytes: int) -> StoredTensor:
    """A header's entry, held against its offsets and against the bytes behind the header; raises CheckpointError."""
    shape = tuple(int(size) for size in entry["shape"])
    begin, end = (int(offset) for offset in entry["data_offsets"])
    if end > data_bytes:
        raise CheckpointError(
            f"{path} is truncated: tensor {name} ends at byte {end} of the data, but the file holds only {data_bytes}; "
            "download it again"
        )
    dtype = str(entry["dtype"])
    if begin < 0 or (dtype in _DTYPES and end - begin != math.prod(shape) * _DTYPES[dtype].itemsize):
        raise CheckpointError(
            f"{path}: tensor {name} of {dtype} {list(shape)} does not fit its data_offsets [{begin}, {end}]; "
            "download it again"
        )
    return StoredTensor(name, path, dtype, shape, data_begin + begin)
