"""A matrix in blocks of 4 or 8 bits, as the tensors that a graph stores."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from fathom_export.decoder.graph_writer import Weight
from fathom_export.quantise.int4 import Blocks, Codes, Floats, block_count, half_quadratic, packed, round_to_nearest

Solver = Literal["rtn", "hqq"]


class BlockSolution:
    """Scales and zero points of the matrix whose codes were written last: they are written behind them."""

    def __init__(self) -> None:
        self._name = ""
        self._parts: tuple[Floats, Codes | None] | None = None

    def keep(self, name: str, scales: Floats, zero_points: Codes | None) -> None:
        """Keep those of a matrix of this name, and no others."""
        self._name, self._parts = name, (scales, zero_points)

    def find(self, name: str) -> tuple[Floats, Codes | None] | None:
        """Those of a matrix of this name, if they are the ones kept."""
        return self._parts if self._name == name else None


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
        read: Callable[[], Codes] = lambda: np.concatenate(list(self._code_blocks()))  # noqa: E731
        return Weight(f"{self._name}.codes", ir.DataType.UINT8, shape, read, self._code_blocks)

    def scales(self) -> Weight:
        """Float32 [outputs, blocks]."""
        shape = (self.outputs, self._block_count)
        return Weight(f"{self._name}.scales", ir.DataType.FLOAT, shape, lambda: self._parts()[0])

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

    def _solved(self) -> Iterator[Blocks]:
        """The blocks of some rows at a time."""
        solve = half_quadratic if self.solver == "hqq" else round_to_nearest
        pieces = iter((self.rows.read(),)) if self.rows.blocks is None else self.rows.blocks()
        return (solve(rows, self.block_size, self.bits) for rows in pieces)

    def _code_blocks(self) -> Iterator[Codes]:
        scales, zero_points = [], []
        for blocks in self._solved():
            scales.append(blocks.scales)
            if blocks.zero_points is not None:
                zero_points.append(blocks.zero_points)
            yield packed(blocks.codes) if self.bits == 4 else blocks.codes
        self.solution.keep(self._name, np.concatenate(scales), np.concatenate(zero_points) if zero_points else None)

    def _parts(self) -> tuple[Floats, Codes | None]:
        """Scales and zero points, [outputs, blocks] each."""
        found = self.solution.find(self._name)
        if found is None:
            for _ in self._code_blocks():
                pass
            found = self.solution.find(self._name)
        if found is None:
            raise ValueError(f"{self._name} has no rows")
        return found

    def _read_zero_points(self) -> Codes:
        zero_points = self._parts()[1]
        if zero_points is None:
            raise ValueError(f"{self._name} is symmetric and has no zero points")
        return packed(zero_points) if self.bits == 4 else zero_points
