"""fp8 e4m3 weights with a scale for 128 inputs of an output each, as MatMulBlockQuantizedFp8Weight reads them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fathom_export.decoder.graph_writer import Weight
from fathom_export.quantise.fp8 import E4M3_MAX

Floats = npt.NDArray[np.float32]

BLOCK_INPUTS: Final = 128


def block_scales(rows: Floats) -> Floats:
    """The largest magnitude of each run over 448: float32 [outputs, ceil(inputs / 128)]; 0 where all are 0.

    ``rows`` is float32 [outputs, inputs]; the last run may be shorter.
    """
    begins = np.arange(0, rows.shape[1], BLOCK_INPUTS)
    return np.asarray(np.maximum.reduceat(np.abs(rows), begins, axis=1) / np.float32(E4M3_MAX), dtype=np.float32)


def block_codes(rows: Floats) -> npt.NDArray[Any]:
    """Each value over its run's scale, rounded to e4m3 with ties to even: float8_e4m3fn of the same shape."""
    scales = np.repeat(block_scales(rows), BLOCK_INPUTS, axis=1)[:, : rows.shape[1]]
    steps = rows / np.where(scales > 0, scales, np.float32(1))
    codes: npt.NDArray[Any] = steps.clip(-E4M3_MAX, E4M3_MAX).astype(ml_dtypes.float8_e4m3fn)
    return codes


@dataclass(frozen=True, slots=True)
class Fp8BlockWeights:
    """Tensors of one matrix, ``rows`` float32 [outputs, inputs], computed some rows at a time as they are written."""

    rows: Weight

    def codes(self) -> Weight:
        """Float8_e4m3fn [outputs, inputs]."""
        blocks: Callable[[], Iterator[npt.NDArray[Any]]] = lambda: map(block_codes, self._pieces())  # noqa: E731
        return Weight(
            f"{self.rows.name}.fp8",
            ir.DataType.FLOAT8E4M3FN,
            self.rows.shape,
            lambda: np.concatenate(list(blocks())),
            blocks,
        )

    def scales(self) -> Weight:
        """Float32 [outputs, ceil(inputs / 128)]."""
        outputs, inputs = self.rows.shape
        return Weight(
            f"{self.rows.name}.fp8_scales",
            ir.DataType.FLOAT,
            (outputs, -(-inputs // BLOCK_INPUTS)),
            lambda: np.concatenate([block_scales(piece) for piece in self._pieces()]),
        )

    def _pieces(self) -> Iterator[Floats]:
        return iter((self.rows.read(),)) if self.rows.blocks is None else self.rows.blocks()
