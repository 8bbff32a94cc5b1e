"""An encoder's weights in float32 on disk, so that torch maps them from there instead of holding them."""

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from fathom_export.decoder.architecture import CONFIG_FILE
from fathom_export.decoder.checkpoint import WEIGHTS_FILE, Checkpoint, StoredTensor

_FLOATS: Final = ("F32", "F16", "BF16")
_HEADER_LENGTH_BYTES: Final = 8
_FLOAT32_BYTES: Final = np.dtype(np.float32).itemsize


@contextmanager
def in_float32(folder: Path, beside: Path) -> Iterator[Path]:
    """The folder itself where its weights are float32, else one with its config and float32 weights, in ``beside``.

    A model that was loaded from it may outlive it. Raises CheckpointError for weights that cannot be read.
    """
    stored = [tensor for tensor in Checkpoint.open(folder).tensors.values() if tensor.dtype in _FLOATS]
    if all(tensor.dtype == "F32" for tensor in stored):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="float32-", dir=beside) as name:
        copy = Path(name)
        shutil.copyfile(folder / CONFIG_FILE, copy / CONFIG_FILE)
        _write(copy / WEIGHTS_FILE, stored)
        yield copy


def _write(path: Path, tensors: list[StoredTensor]) -> None:
    """Write tensors as float32, some rows at a time; position ids and the like are for transformers to make."""
    header, end = {}, 0
    for tensor in tensors:
        begin, end = end, end + _FLOAT32_BYTES * math.prod(tensor.shape)
        header[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % _HEADER_LENGTH_BYTES)  # numbers behind it are read where their size divides the place
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_HEADER_LENGTH_BYTES, "little") + text)
        for tensor in tensors:
            for block in tensor.row_blocks() if tensor.shape else (tensor,):
                block.read().tofile(file)
