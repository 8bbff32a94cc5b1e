"""A matrix in blocks of 4 or 8 bits, as the tensors that a graph stores."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt
import onnx_ir as ir

from fathom_export.decoder.graph_writer import Weight
from fathom_export.quantise.int4 import Blocks, block_count, half_quadratic, packed, round_to_nearest

Solver = Literal["rtn", "hqq"]


class BlockSolution:
    """The blocks of the matrix that was asked for last: its tensors are written one after the other."""

    def __init__(self) -> None:
        self._name = ""
        self._blocks: Blocks | None = None

    def of(self, name: str, rows: Weight, block_size: int, bits: int, solver: Solver) -> Blocks:
        """The blocks of a matrix of this name."""
        if self._blocks is None or self._name != name:
            self._blocks = None  # before the next one is there
            solve = half_quadratic if solver == "hqq" else round_to_nearest
            self._blocks = solve(rows.read(), block_size, bits)
            self._name = name
        return self._blocks


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """Tensors of one matrix, ``rows`` float32 [outputs, inputs], each computed when it is written."""

    rows: Weight
    block_size: int
    bits: int
    solver: Solver
    solution: BlockSolution

    @property
    def outputs(self) -> int:
        """How many values come out."""
        return self.rows.shape[0]

    @property
    def inputs(self) -> int:
        """How many values go in."""
        return self.rows.shape[1]

    @property
    def padding(self) -> int:
        """Weights by which the last block of an output is filled up."""
        return self._block_count * self.block_size - self.inputs

    def codes(self) -> Weight:
        """Uint8 [outputs, blocks, block_size × bits / 8]."""
        shape = (self.outputs, self._block_count, self.block_size * self.bits // 8)
        return Weight(f"{self._name}.codes", ir.DataType.UINT8, shape, self._read_codes)

    def scales(self) -> Weight:
        """Float32 [outputs, blocks]."""
        shape = (self.outputs, self._block_count)
        return Weight(f"{self._name}.scales", ir.DataType.FLOAT, shape, lambda: self._solve().scales)

    def zero_points(self) -> Weight | None:
        """Uint8 [outputs, ceil(blocks × bits / 8)], or None where all are half of the range."""
        if self.solver == "rtn":
            return None
        shape = (self.outputs, -(-self._block_count * self.bits // 8))
        return Weight(f"{self._name}.zero_points", ir.DataType.UINT8, shape, self._read_zero_points)

    @property
    def _name(self) -> str:
        return f"{self.rows.name}.int{self.bits}_blocks"

    @property
    def _block_count(self) -> int:
        return block_count(self.inputs, self.block_size)

    def _solve(self) -> Blocks:
        return self.solution.of(self._name, self.rows, self.block_size, self.bits, self.solver)

    def _read_codes(self) -> npt.NDArray[Any]:
        codes = self._solve().codes
        return packed(codes) if self.bits == 4 else codes

    def _read_zero_points(self) -> npt.NDArray[Any]:
        zero_points = self._solve().zero_points
        if zero_points is None:
            raise ValueError(f"{self._name} is symmetric and has no zero points")
        return packed(zero_points) if self.bits == 4 else zero_points
