"""What a step reads, in one piece of device memory: one copy brings all of it over the bus."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from fathom_server.engine import settings as names
from fathom_server.engine.runner.base import StepRow

_ALIGNMENT: Final = 256


class StepInputs:
    """Inputs of steps of up to ``tokens`` tokens, ``rows`` sequences and ``logits`` rows of logits.

    Each input has its place, which stays the same for all shapes, as a captured CUDA graph needs it. The bounds of
    attention stay in main memory, where its operator reads them.
    """

    def __init__(self, device: str, tokens: int, rows: int, logits: int, blocks_each: int) -> None:
        self._device_name = device
        self._sizes = (tokens, rows, logits)
        self._width = blocks_each
        fields: tuple[tuple[str, type[np.generic], int], ...] = (
            (names.INPUT_IDS, np.int64, tokens),
            (names.LOGIT_ROWS, np.int64, logits),
            (names.ROW_STARTS, np.int32, rows + 1),
            (names.PAST_LENGTHS, np.int32, rows),
            (names.BLOCK_TABLES, np.int32, rows * blocks_each),
        )
        ends = np.cumsum(
            [-(-count * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT for _, dtype, count in fields]
        )
        self._host = np.zeros(int(ends[-1]), dtype=np.uint8)
        self._device = ort.OrtValue.ortvalue_from_numpy(self._host, device)
        self._begins = dict(zip((name for name, _, _ in fields), [0, *ends[:-1].tolist()], strict=True))
        self._views: dict[str, npt.NDArray[Any]] = {
            name: self._host[self._begins[name] :][: count * np.dtype(dtype).itemsize].view(dtype)
            for name, dtype, count in fields
        }
        self._bounds = np.zeros(3, dtype=np.int32)

    def hold(self, *sizes: int) -> bool:
        """Whether a step of so many tokens, rows and logits fits."""
        return all(size <= own for size, own in zip(sizes, self._sizes, strict=True))

    def grown(self, *sizes: int) -> "StepInputs":
        """New ones in which such a step fits, and all that fitted before."""
        tokens, rows, logits = map(max, sizes, self._sizes)
        return StepInputs(self._device_name, tokens, rows, logits, self._width)

    def write(self, rows: Sequence[StepRow], bounds: tuple[int, int, int]) -> None:
        """Bring a step's inputs to the device; places of logits that nobody wants are 0."""
        views = self._views
        end = logits = 0
        tables = views[names.BLOCK_TABLES].reshape(-1, self._width)
        views[names.LOGIT_ROWS][:] = 0
        views[names.ROW_STARTS][0] = 0
        for place, row in enumerate(rows):
            begin, end = end, end + len(row.token_ids)
            views[names.INPUT_IDS][begin:end] = row.token_ids
            views[names.ROW_STARTS][place + 1] = end
            views[names.PAST_LENGTHS][place] = row.past
            tables[place, : len(row.blocks)] = row.blocks
            if row.logits:
                views[names.LOGIT_ROWS][logits : logits + row.logits] = np.arange(end - row.logits, end)
                logits += row.logits
        self._bounds[:] = bounds
        self._device.update_inplace(self._host)

    def bind(self, binding: Any, tokens: int, rows: int, logits: int) -> None:
        """Bind the inputs of steps of this shape."""
        shapes = {
            names.INPUT_IDS: (tokens,),
            names.LOGIT_ROWS: (logits,),
            names.ROW_STARTS: (rows + 1,),
            names.PAST_LENGTHS: (rows,),
            names.BLOCK_TABLES: (rows, self._width),
        }
        for name, shape in shapes.items():
            address = self._device.data_ptr() + self._begins[name]
            binding.bind_input(name, self._device_name, 0, self._views[name].dtype.type, shape, address)
        bounds = self._bounds
        binding.bind_input(names.ATTENTION_BOUNDS, "cpu", 0, np.int32, bounds.shape, bounds.ctypes.data)
