"""The matrices and embeddings of the native graph: the stock graph's weights, as Fathom's operators read them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from fathom_export.decoder.graph_writer import GraphWriter, Weight
from fathom_export.decoder.weights import Matrix
from fathom_export.quantise.block_weights import BlockSolution, BlockWeights, Solver

_EMBEDDING_ZERO_POINT: Final = 128


@dataclass(frozen=True, slots=True)
class QuantisedMatrix:
    """A matrix as ``Linear`` reads it.

    ``block_size`` 0: ``weight`` int8 [inputs, outputs] with one scale a column. Else MatMulNBits' layout of ``bits``.
    """

    weight: Weight
    scale: Weight
    zero_points: Weight | None
    bits: int
    block_size: int
    inputs: int
    outputs: int


class NativeMatrices(ABC):
    """The form that a precision's matrices and embeddings have in the stock graph."""

    @abstractmethod
    def matrix(self, matrix: Matrix) -> QuantisedMatrix:
        """The weights of a linear layer."""

    @abstractmethod
    def lm_head(self, matrix: Matrix) -> QuantisedMatrix:
        """The weights of the projection to logits."""

    @abstractmethod
    def embed(self, graph: GraphWriter, matrix: Matrix, input_ids: ir.Value) -> ir.Value:
        """The embeddings of ids int64 [rows]: float32 [rows, hidden]."""


class ColumnwiseInt8(NativeMatrices):
    """Signed 8-bit weights with one scale a column, as ``RowwiseInt8Projections`` has them."""

    def matrix(self, matrix: Matrix) -> QuantisedMatrix:
        """See the base class."""
        return QuantisedMatrix(
            matrix.int8_columns(), matrix.int8_scales(), None, 8, 0, inputs=matrix.inputs, outputs=matrix.outputs
        )

    def lm_head(self, matrix: Matrix) -> QuantisedMatrix:
        """See the base class."""
        return self.matrix(matrix)

    def embed(self, graph: GraphWriter, matrix: Matrix, input_ids: ir.Value) -> ir.Value:
        """See the base class. A row of the embedding is int8 over a scale of its own."""
        steps = graph.node("embedding.int8", "Gather", graph.weight(matrix.int8_rows()), input_ids, axis=0)
        scales = graph.node("embedding.scale", "Gather", graph.weight(matrix.int8_scales()), input_ids, axis=0)
        column = graph.node("embedding.scale_column", "Unsqueeze", scales, _axis(graph, 1))
        values = graph.node("embedding.float32", "Cast", steps, to=ir.DataType.FLOAT)
        return graph.node("embedding", "Mul", values, column)


class BlockwiseInt4(NativeMatrices):
    """Weights in blocks of 4 bits, embedding and LM head in blocks of 8, as ``BlockInt4Projections`` has them."""

    def __init__(self, block_size: int, solver: Solver) -> None:
        self._block_size = block_size
        self._solver = solver
        self._solution = BlockSolution()

    def matrix(self, matrix: Matrix) -> QuantisedMatrix:
        """See the base class."""
        return self._quantised(BlockWeights(matrix.rows(), self._block_size, 4, self._solver, self._solution))

    def lm_head(self, matrix: Matrix) -> QuantisedMatrix:
        """See the base class."""
        return self._quantised(self._eight_bits(matrix))

    def embed(self, graph: GraphWriter, matrix: Matrix, input_ids: ir.Value) -> ir.Value:
        """See the base class. A row of the embedding is a run of blocks, [blocks, block_size]."""
        weights = self._eight_bits(matrix)
        codes = graph.node("embedding.codes", "Gather", graph.weight(weights.codes()), input_ids, axis=0)
        scales = graph.node("embedding.scales", "Gather", graph.weight(weights.scales()), input_ids, axis=0)
        column = graph.node("embedding.scale_column", "Unsqueeze", scales, _axis(graph, 2))
        values = graph.node("embedding.float32", "Cast", codes, to=ir.DataType.FLOAT)
        middle = graph.constant("embedding.middle", np.array(_EMBEDDING_ZERO_POINT, np.float32))
        steps = graph.node("embedding.steps", "Sub", values, middle)
        blocks = graph.node("embedding.blocks", "Mul", steps, column)
        flat = graph.constant("embedding.flat_shape", np.array([0, -1], np.int64))
        padded = graph.node("embedding.padded", "Reshape", blocks, flat)
        if weights.padding == 0:
            return padded
        begin, end = (
            graph.constant(f"embedding.{name}", np.array([number], np.int64))
            for name, number in (("begin", 0), ("end", matrix.inputs))
        )
        return graph.node("embedding", "Slice", padded, begin, end, _axis(graph, 1))

    def _eight_bits(self, matrix: Matrix) -> BlockWeights:
        return BlockWeights(matrix.rows(), self._block_size, 8, "rtn", self._solution)

    def _quantised(self, blocks: BlockWeights) -> QuantisedMatrix:
        return QuantisedMatrix(
            blocks.codes(),
            blocks.scales(),
            blocks.zero_points(),
            blocks.bits,
            self._block_size,
            inputs=blocks.inputs,
            outputs=blocks.outputs,
        )


def _axis(graph: GraphWriter, axis: int) -> ir.Value:
    return graph.constant(f"axis.{axis}", np.array([axis], np.int64))
