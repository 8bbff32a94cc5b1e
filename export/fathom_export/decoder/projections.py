"""Matrix products of a decoder: in float32, in int8 with one activation scale a row, or in blocks of int4."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from fathom_export.decoder.graph_writer import MICROSOFT, GraphWriter
from fathom_export.decoder.weights import INT8_MAX, Linear, Matrix
from fathom_export.quantise.block_weights import BlockSolution, BlockWeights, Solver

_ZERO_POINT: Final = 128
_INT8_ACTIVATIONS: Final = 4
"""MatMulNBits' accuracy level for products in int8."""
_SMALLEST_MAGNITUDE: Final = 1e-30
"""A row whose values are all below it is taken for zeros; without a floor its scale of 0 would make NaNs of them."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Activations [batch, sequence, n] that stand for ``value`` × ``scale``.

    ``scale`` is float32 [batch, sequence, 1], or None for 1: a multiplication is left to whoever can fold it into its
    own.
    """

    value: ir.Value
    scale: ir.Value | None = None


class Projections(ABC):
    """How embeddings and linear layers are computed. Every method adds nodes under the name that it is given."""

    def __init__(self, graph: GraphWriter) -> None:
        self._graph = graph

    @abstractmethod
    def begin_rows(self, name: str, ids: ir.Value) -> None:
        """Declare that the activations from here on have one row for each entry of ``ids`` [batch, sequence]."""

    @abstractmethod
    def embed(self, name: str, matrix: Matrix, input_ids: ir.Value) -> ir.Value:
        """The embeddings of ids [batch, sequence]: float32 [batch, sequence, hidden]."""

    @abstractmethod
    def prepare(self, name: str, rows: Rows, columns: int) -> Rows:
        """Bring activations [batch, sequence, columns] into the form that ``apply`` reads; layers may share it."""

    @abstractmethod
    def product(self, name: str, prepared: Rows, matrix: Matrix) -> Rows:
        """Multiply prepared activations [batch, sequence, inputs] by a matrix: [batch, sequence, outputs]."""

    @abstractmethod
    def lm_head(self, name: str, matrix: Matrix, hidden: ir.Value, logit_positions: ir.Value) -> ir.Value:
        """Logits float32 [batch, k, vocabulary] of hidden states [batch, k, hidden]."""

    def apply(self, name: str, prepared: Rows, linear: Linear) -> Rows:
        """A whole linear layer; a bias is added to true values, so nothing is left to multiply then."""
        rows = self.product(name, prepared, linear.matrix)
        if linear.bias is None:
            return rows
        bias = self._graph.weight(linear.bias)
        return Rows(self._graph.node(f"{name}.with_bias", "Add", self.true_values(name, rows), bias))

    def true_values(self, name: str, rows: Rows) -> ir.Value:
        """``value`` × ``scale`` as a float32 tensor."""
        if rows.scale is None:
            return rows.value
        return self._graph.node(f"{name}.rescaled", "Mul", rows.value, rows.scale)


class Float32Projections(Projections):
    """Everything in float32; a tied LM head reads the embedding's own tensor."""

    def begin_rows(self, name: str, ids: ir.Value) -> None:
        """See the base class; nothing here depends on it."""

    def embed(self, name: str, matrix: Matrix, input_ids: ir.Value) -> ir.Value:
        """See the base class."""
        return self._graph.node(name, "Gather", self._graph.weight(matrix.rows()), input_ids, axis=0)

    def prepare(self, name: str, rows: Rows, columns: int) -> Rows:
        """See the base class."""
        return rows

    def product(self, name: str, prepared: Rows, matrix: Matrix) -> Rows:
        """See the base class."""
        return Rows(self._graph.node(name, "MatMul", prepared.value, self._graph.weight(matrix.columns())))

    def lm_head(self, name: str, matrix: Matrix, hidden: ir.Value, logit_positions: ir.Value) -> ir.Value:
        """See the base class. Gemm, unlike MatMul, reads the matrix as the embedding stores it."""
        graph = self._graph
        flat_shape = graph.constant("shape.flat_hidden", np.array([-1, matrix.inputs], np.int64))
        flat = graph.node(f"{name}.flat", "Reshape", hidden, flat_shape)
        logits = graph.node(name, "Gemm", flat, graph.weight(matrix.rows()), transB=1)
        batch_and_k = graph.node(f"{name}.rows", "Shape", logit_positions)
        vocabulary = graph.constant("shape.vocabulary", np.array([matrix.outputs], np.int64))
        shape = graph.node(f"{name}.shape", "Concat", batch_and_k, vocabulary, axis=0)
        return graph.node(f"{name}.logits", "Reshape", logits, shape, allowzero=1)


class RowwiseInt8Projections(Projections):
    """Unsigned 8-bit activations around 128 with one scale a row, signed 8-bit weights with one scale a column.

    A row's scale depends on that row alone and the products are summed in integers, so a request's output never
    depends on its neighbours. Session option ``session.x64quantprecision`` must be 1 on processors without VNNI, whose
    16-bit sums of such products overflow otherwise.
    """

    _zero_points: ir.Value

    def begin_rows(self, name: str, ids: ir.Value) -> None:
        """See the base class; QuantizeLinear asks for a zero point a row, uint8 [batch, sequence, 1]."""
        graph = self._graph
        shape = graph.node(f"{name}.shape", "Shape", graph.node(f"{name}.column", "Unsqueeze", ids, self._last_axis()))
        zero_point = ir.tensor(np.array([_ZERO_POINT], np.uint8))
        self._zero_points = graph.node(f"{name}.zero_points", "ConstantOfShape", shape, value=zero_point)

    def embed(self, name: str, matrix: Matrix, input_ids: ir.Value) -> ir.Value:
        """See the base class. A row of the embedding is int8 over a scale of its own."""
        graph = self._graph
        steps = graph.node(f"{name}.int8", "Gather", graph.weight(matrix.int8_rows()), input_ids, axis=0)
        scales = graph.node(f"{name}.scale", "Gather", graph.weight(matrix.int8_scales()), input_ids, axis=0)
        column = graph.node(f"{name}.scale_column", "Unsqueeze", scales, self._last_axis())
        values = graph.node(f"{name}.float32", "Cast", steps, to=ir.DataType.FLOAT)
        return graph.node(name, "Mul", values, column)

    def prepare(self, name: str, rows: Rows, columns: int) -> Rows:
        """Quantise each row over its largest magnitude; a scale that the row already carries is kept in the new one."""
        graph = self._graph
        magnitudes = graph.node(f"{name}.magnitudes", "Abs", rows.value)
        largest = graph.node(f"{name}.largest", "ReduceMax", magnitudes, self._last_axis(), keepdims=1)
        floor = graph.constant("int8.smallest_magnitude", np.array(_SMALLEST_MAGNITUDE, np.float32))
        floored = graph.node(f"{name}.floored", "Max", largest, floor)
        step = graph.constant("int8.step", np.array(1.0 / INT8_MAX, np.float32))
        scale = graph.node(f"{name}.scale", "Mul", floored, step)
        quantized = graph.node(
            f"{name}.uint8", "QuantizeLinear", rows.value, scale, self._zero_points, axis=2, block_size=columns
        )
        if rows.scale is not None:
            scale = graph.node(f"{name}.whole_scale", "Mul", scale, rows.scale)
        return Rows(quantized, scale)

    def product(self, name: str, prepared: Rows, matrix: Matrix) -> Rows:
        """See the base class."""
        graph = self._graph
        value = graph.node(
            name,
            "MatMulIntegerToFloat",
            prepared.value,
            graph.weight(matrix.int8_columns()),
            graph.constant("int8.one", np.array(1.0, np.float32)),
            graph.weight(matrix.int8_scales()),
            graph.constant("int8.zero_point", np.array(_ZERO_POINT, np.uint8)),
            domain=MICROSOFT,
        )
        return Rows(value, prepared.scale)

    def lm_head(self, name: str, matrix: Matrix, hidden: ir.Value, logit_positions: ir.Value) -> ir.Value:
        """See the base class."""
        prepared = self.prepare(f"{name}.input", Rows(hidden), matrix.inputs)
        return self.true_values(name, self.product(name, prepared, matrix))

    def _last_axis(self) -> ir.Value:
        """2, not −1: over no rows at all, ONNX Runtime 1.31 reduces a negative axis to the wrong shape."""
        return self._graph.constant("axis.2", np.array([2], np.int64))


class BlockInt4Projections(Projections):
    """4-bit weights in blocks with a scale each; embedding and LM head in 8 bits, blocks of the same size.

    ONNX Runtime quantises the activations to int8 by block itself (``accuracy_level`` 4). With blocks of 32 a row gives
    the same bits alone and in a batch; with 128 its kernels for one row and for several round differently. A tied LM
    head reads the embedding's own tensor.
    """

    def __init__(self, graph: GraphWriter, block_size: int, solver: Solver) -> None:
        super().__init__(graph)
        self._block_size = block_size
        self._solver = solver
        self._solution = BlockSolution()

    def begin_rows(self, name: str, ids: ir.Value) -> None:
        """See the base class; nothing here depends on it."""

    def embed(self, name: str, matrix: Matrix, input_ids: ir.Value) -> ir.Value:
        """See the base class. A row of the embedding is a run of blocks, [blocks, block_size]."""
        graph, weights = self._graph, self._eight_bits(matrix)
        codes = graph.node(f"{name}.codes", "Gather", graph.weight(weights.codes()), input_ids, axis=0)
        scales = graph.node(f"{name}.scales", "Gather", graph.weight(weights.scales()), input_ids, axis=0)
        last_axis = graph.constant("axis.3", np.array([3], np.int64))
        column = graph.node(f"{name}.scale_column", "Unsqueeze", scales, last_axis)
        values = graph.node(f"{name}.float32", "Cast", codes, to=ir.DataType.FLOAT)
        middle = graph.constant("int8.middle", np.array(_ZERO_POINT, np.float32))
        steps = graph.node(f"{name}.steps", "Sub", values, middle)
        blocks = graph.node(f"{name}.blocks", "Mul", steps, column)
        flat = graph.constant("shape.flat_blocks", np.array([0, 0, -1], np.int64))
        padded = graph.node(f"{name}.padded", "Reshape", blocks, flat)
        if weights.padding == 0:
            return padded
        begin, end, axis = (np.array([number], np.int64) for number in (0, matrix.inputs, 2))
        return graph.node(
            name,
            "Slice",
            padded,
            graph.constant("slice.begin", begin),
            graph.constant(f"slice.{matrix.inputs}", end),
            graph.constant("axis.2", axis),
        )

    def prepare(self, name: str, rows: Rows, columns: int) -> Rows:
        """See the base class."""
        return rows

    def product(self, name: str, prepared: Rows, matrix: Matrix) -> Rows:
        """See the base class."""
        weights = BlockWeights(matrix.rows(), self._block_size, 4, self._solver, self._solution)
        return Rows(self._blockwise(name, weights, prepared.value))

    def lm_head(self, name: str, matrix: Matrix, hidden: ir.Value, logit_positions: ir.Value) -> ir.Value:
        """See the base class."""
        return self._blockwise(name, self._eight_bits(matrix), hidden)

    def _eight_bits(self, matrix: Matrix) -> BlockWeights:
        return BlockWeights(matrix.rows(), self._block_size, 8, "rtn", self._solution)

    def _blockwise(self, name: str, weights: BlockWeights, activations: ir.Value) -> ir.Value:
        graph = self._graph
        zero_points = weights.zero_points()
        return graph.node(
            name,
            "MatMulNBits",
            activations,
            graph.weight(weights.codes()),
            graph.weight(weights.scales()),
            None if zero_points is None else graph.weight(zero_points),
            domain=MICROSOFT,
            K=weights.inputs,
            N=weights.outputs,
            bits=weights.bits,
            block_size=self._block_size,
            accuracy_level=_INT8_ACTIVATIONS,
        )
