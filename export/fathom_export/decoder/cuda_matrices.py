"""The matrices of the cuda graph: in float16, or in fp8 with scales a block."""

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial

import onnx_ir as ir

from fathom_export.decoder.graph_writer import MICROSOFT, GraphWriter, Weight
from fathom_export.decoder.weights import Linear
from fathom_export.quantise.float16 import narrowed
from fathom_export.quantise.fp8_blocks import BLOCK_INPUTS, Fp8BlockWeights


def half(weight: Weight) -> Weight:
    """A float32 weight in float16; reading one beyond float16's range raises CheckpointError."""
    change = partial(narrowed, weight.name)
    blocks = weight.blocks
    return replace(
        weight,
        dtype=ir.DataType.FLOAT16,
        read=lambda: change(weight.read()),
        blocks=None if blocks is None else lambda: map(change, blocks()),
    )


class CudaMatrices(ABC):
    """How the layers' matrices are stored; embedding and LM head are float16 in every form."""

    @abstractmethod
    def product(self, graph: GraphWriter, name: str, rows: ir.Value, linear: Linear) -> ir.Value:
        """Float16 [rows, outputs] of float16 [rows, inputs]."""


class HalfMatrices(CudaMatrices):
    """Float16 [outputs, inputs], as the checkpoint stores them."""

    def product(self, graph: GraphWriter, name: str, rows: ir.Value, linear: Linear) -> ir.Value:
        """See the base class."""
        bias = None if linear.bias is None else graph.weight(half(linear.bias))
        operands = (rows, graph.weight(half(linear.matrix.rows())), *(() if bias is None else (bias,)))
        return graph.node(name, "Gemm", *operands, transB=1)


class Fp8Matrices(CudaMatrices):
    """fp8 e4m3 with a scale for every 128 inputs; activations stay float16, so nothing is calibrated."""

    def product(self, graph: GraphWriter, name: str, rows: ir.Value, linear: Linear) -> ir.Value:
        """See the base class."""
        stored = Fp8BlockWeights(linear.matrix.rows())
        bias = () if linear.bias is None else (None, graph.weight(half(linear.bias)))
        return graph.node(
            name,
            "MatMulBlockQuantizedFp8Weight",
            rows,
            graph.weight(stored.codes()),
            graph.weight(stored.scales()),
            *bias,
            domain=MICROSOFT,
            block_size=BLOCK_INPUTS,
        )
