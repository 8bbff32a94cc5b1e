"""A decoder's weights in the layouts that its graph reads, each computed from the checkpoint when it is written."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fathom_export.decoder.architecture import DecoderArchitecture
from fathom_export.decoder.checkpoint import Checkpoint, StoredTensor
from fathom_export.decoder.graph_writer import Weight
from fathom_export.errors import UnsupportedArchitectureError

INT8_MAX: Final = 127

_TRANSPOSED_ROWS: Final = 64

EMBEDDING: Final = "model.embed_tokens.weight"
LM_HEAD: Final = "lm_head.weight"
FINAL_NORM: Final = "model.norm.weight"

Change = Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]
"""Another form of rows of a matrix, each row's independent of the others."""

_DERIVED: Final = "rotary_emb.inv_freq"
"""Old checkpoints store it; it follows from the configuration."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights of one or several linear layers over the same input, side by side: rows of [outputs, inputs] each."""

    name: str
    parts: tuple[StoredTensor, ...]

    @property
    def outputs(self) -> int:
        """How many values come out."""
        return sum(part.shape[0] for part in self.parts)

    @property
    def inputs(self) -> int:
        """How many values go in."""
        return self.parts[0].shape[1]

    def rows(self) -> Weight:
        """Float32 [outputs, inputs], as the checkpoint stores it."""
        return self._weight("", ir.DataType.FLOAT, lambda rows: rows, transposed=False)

    def columns(self) -> Weight:
        """Float32 [inputs, outputs], as MatMul reads it."""
        return self._weight("", ir.DataType.FLOAT, lambda rows: rows, transposed=True)

    def int8_rows(self) -> Weight:
        """Int8 [outputs, inputs]: each row over its ``int8_scales``."""
        return self._weight(".int8_rows", ir.DataType.INT8, _quantize_rows, transposed=False)

    def int8_columns(self) -> Weight:
        """Int8 [inputs, outputs]: each column over its ``int8_scales``."""
        return self._weight(".int8", ir.DataType.INT8, _quantize_rows, transposed=True)

    def int8_scales(self) -> Weight:
        """Float32 [outputs]: the largest magnitude of an output's weights over 127; 0 where all are 0."""
        read: Callable[[], npt.NDArray[np.float32]] = lambda: np.concatenate(  # noqa: E731
            [_row_scales(rows) for rows in self._blocks()]
        )
        return Weight(f"{self.name}.scale", ir.DataType.FLOAT, (self.outputs,), read)

    def _weight(self, suffix: str, dtype: ir.DataType, change: Change, *, transposed: bool) -> Weight:
        """A form of the matrix that is made of a few of its rows at a time."""

        def blocks() -> Iterator[npt.NDArray[Any]]:
            for rows in self._blocks():
                yield _transposed(change(rows)) if transposed else change(rows)

        return Weight(
            f"{self.name}{suffix}",
            dtype,
            (self.inputs, self.outputs) if transposed else (self.outputs, self.inputs),
            lambda: np.concatenate(list(blocks()), axis=1 if transposed else 0),
            blocks,
            blocks_are_columns=transposed,
        )

    def _blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Float32 [some, inputs], in the order of the rows."""
        for part in self.parts:
            for block in part.row_blocks():
                yield block.read()


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer, or several over the same input: y = x · matrixᵀ + bias."""

    matrix: Matrix
    bias: Weight | None


class DecoderWeights:
    """Every weight of one decoder by its role; names and shapes are checked when asked for, values when written."""

    def __init__(self, checkpoint: Checkpoint, architecture: DecoderArchitecture) -> None:
        self._checkpoint = checkpoint
        self._architecture = architecture
        self._used: set[str] = set()

    def embedding(self) -> Matrix:
        """Token embeddings, [vocabulary, hidden]."""
        return Matrix(EMBEDDING, (self._vocabulary_matrix(EMBEDDING),))

    def lm_head(self) -> Matrix:
        """The projection to logits, [vocabulary, hidden].

        It is the embedding itself where the two are tied, unless the checkpoint stores another: then, as transformers
        does, that one is taken.
        """
        if not self._architecture.tied_embeddings:
            return Matrix(LM_HEAD, (self._vocabulary_matrix(LM_HEAD),))
        if LM_HEAD in self._checkpoint.tensors:
            stored = self._vocabulary_matrix(LM_HEAD)
            if not stored.equals(self._vocabulary_matrix(EMBEDDING)):
                return Matrix(LM_HEAD, (stored,))
        return self.embedding()

    def final_norm(self) -> Weight:
        """Weights of the norm before the LM head, float32 [hidden].

        The logits' scale is folded into them, and the division by a soft cap.
        """
        form = self._architecture
        return self._norm(FINAL_NORM, form.hidden, form.logit_scale / (form.logit_softcap or 1.0))

    def attention_norm(self, layer: int) -> Weight | None:
        """Weights of the norm on what goes into attention, float32 [hidden]; None where there is none."""
        return self._layer_norm(layer, "input_layernorm", {"before", "both"})

    def attention_output_norm(self, layer: int) -> Weight | None:
        """Weights of the norm on what comes out of attention, float32 [hidden]; None where there is none."""
        return self._layer_norm(layer, "post_attention_layernorm", {"after", "both"}, self._architecture.residual_scale)

    def mlp_norm(self, layer: int) -> Weight | None:
        """Weights of the norm on what goes into the MLP, float32 [hidden]; None where there is none."""
        before = self._architecture.norm_placement == "before"
        name = "post_attention_layernorm" if before else "pre_feedforward_layernorm"
        return self._layer_norm(layer, name, {"before", "both"})

    def mlp_output_norm(self, layer: int) -> Weight | None:
        """Weights of the norm on what comes out of the MLP, float32 [hidden]; None where there is none."""
        scale = self._architecture.residual_scale
        return self._layer_norm(layer, "post_feedforward_layernorm", {"after", "both"}, scale)

    def query_key_norm(self, layer: int, part: str, factor: float = 1.0) -> Weight:
        """Weights of the norm of ``q`` or ``k`` times a factor, float32 [head_dim] or [heads × head_dim]."""
        form = self._architecture
        heads = form.heads if part == "q" else form.kv_heads
        size = form.head_dim * (heads if form.qk_norm == "projection" else 1)
        return self._norm(f"model.layers.{layer}.self_attn.{part}_norm.weight", size, factor)

    def query_key_value(self, layer: int, query_factor: float = 1.0) -> tuple[Linear, Linear, Linear]:
        """The projections into attention: [heads × head_dim, hidden], and twice [kv_heads × head_dim, hidden].

        The query's weights and bias are times a factor.
        """
        form = self._architecture
        sizes = [heads * form.head_dim for heads in (form.heads, form.kv_heads, form.kv_heads)]
        parts = [f"self_attn.{part}_proj" for part in "qkv"]
        factors = [query_factor, 1.0, 1.0]
        if form.fused_projections:
            query, key, value = self._parts_of(layer, "self_attn.qkv_proj", parts, sizes, factors)
        else:
            query, key, value = (
                self._linear(layer, part, size, form.hidden, form.qkv_bias, factor)
                for part, size, factor in zip(parts, sizes, factors, strict=True)
            )
        return query, key, value

    def attention_output(self, layer: int) -> Linear:
        """The projection out of attention, [hidden, heads × head_dim]."""
        form = self._architecture
        columns = form.heads * form.head_dim
        return self._linear(layer, "self_attn.o_proj", form.hidden, columns, form.output_bias, self._output_factor())

    def gate_and_up(self, layer: int) -> tuple[Linear, Linear]:
        """The MLP's gate and its way up, [intermediate, hidden] each."""
        form = self._architecture
        parts = ["mlp.gate_proj", "mlp.up_proj"]
        if form.fused_projections:
            gate, up = self._parts_of(layer, "mlp.gate_up_proj", parts, [form.intermediate] * 2, [1.0] * 2)
        else:
            gate, up = (self._linear(layer, part, form.intermediate, form.hidden, form.mlp_bias) for part in parts)
        return gate, up

    def down(self, layer: int) -> Linear:
        """The MLP's way down, [hidden, intermediate]."""
        form = self._architecture
        return self._linear(
            layer, "mlp.down_proj", form.hidden, form.intermediate, form.mlp_bias, self._output_factor()
        )

    def refuse_unused(self) -> None:
        """Raise UnsupportedArchitectureError if the checkpoint holds weights that no part of the graph asked for.

        Such a checkpoint means another arithmetic than config.json says, and would answer nonsense.
        """
        tied = {LM_HEAD} if self._architecture.tied_embeddings else set()
        unused = [
            name for name in self._checkpoint.tensors if name not in self._used | tied and not name.endswith(_DERIVED)
        ]
        if unused:
            raise UnsupportedArchitectureError(
                f"{self._checkpoint.source}: a {self._architecture.model_type} of this config.json has no place for "
                f"{len(unused)} tensors of the checkpoint, such as {', '.join(sorted(unused)[:3])}; adapters must be "
                "merged first, and other kinds of model are not supported"
            )

    def _vocabulary_matrix(self, name: str) -> StoredTensor:
        return self._stored(name, (self._architecture.vocabulary, self._architecture.hidden))

    def _output_factor(self) -> float:
        """The residual's scale, where no norm stands between a projection and the residual to take it."""
        return self._architecture.residual_scale if self._architecture.norm_placement == "before" else 1.0

    def _linear(self, layer: int, part: str, outputs: int, inputs: int, has_bias: bool, factor: float = 1.0) -> Linear:
        name = f"model.layers.{layer}.{part}"
        matrix = Matrix(f"{name}.weight", (self._stored(f"{name}.weight", (outputs, inputs)).times(factor),))
        if not has_bias:
            return Linear(matrix, None)
        bias = self._stored(f"{name}.bias", (outputs,)).times(factor)
        return Linear(matrix, Weight(bias.name, ir.DataType.FLOAT, (outputs,), bias.read))

    def _parts_of(
        self, layer: int, fused: str, parts: Sequence[str], sizes: Sequence[int], factors: Sequence[float]
    ) -> list[Linear]:
        """Linear layers that are stored as one, its outputs in their order."""
        stored = self._stored(f"model.layers.{layer}.{fused}.weight", (sum(sizes), self._architecture.hidden))
        begins = [sum(sizes[:index]) for index in range(len(sizes))]
        return [
            Linear(Matrix(f"model.layers.{layer}.{part}.weight", (stored.rows(begin, size).times(factor),)), None)
            for part, begin, size, factor in zip(parts, begins, sizes, factors, strict=True)
        ]

    def _layer_norm(self, layer: int, name: str, placements: set[str], factor: float = 1.0) -> Weight | None:
        if self._architecture.norm_placement not in placements:
            return None
        return self._norm(f"model.layers.{layer}.{name}.weight", self._architecture.hidden, factor)

    def _norm(self, name: str, size: int, factor: float = 1.0) -> Weight:
        stored, offset = self._stored(name, (size,)), np.float32(self._architecture.norm_offset)
        return Weight(name, ir.DataType.FLOAT, (size,), lambda: (stored.read() + offset) * np.float32(factor))

    def _stored(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        self._used.add(name)
        return self._checkpoint.tensor(name, shape)


def side_by_side(name: str, *layers: Linear) -> Linear:
    """Linear layers over the same input as one, their outputs in order."""
    matrix = Matrix(f"{name}.weight", tuple(part for layer in layers for part in layer.matrix.parts))
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if not biases:
        return Linear(matrix, None)
    read: Callable[[], npt.NDArray[np.float32]] = lambda: np.concatenate([bias.read() for bias in biases])  # noqa: E731
    return Linear(matrix, Weight(f"{name}.bias", ir.DataType.FLOAT, (matrix.outputs,), read))


def _transposed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Contiguous; some rows at a time, which is thrice as fast as numpy's own copy since they stay in the cache."""
    transposed = np.empty(array.shape[::-1], array.dtype)
    for begin in range(0, len(array), _TRANSPOSED_ROWS):
        rows = slice(begin, begin + _TRANSPOSED_ROWS)
        transposed[:, rows] = array[rows].T
    return transposed


def _row_scales(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(np.abs(rows).max(axis=1) / np.float32(INT8_MAX), dtype=np.float32)


def _quantize_rows(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Round to nearest, each row symmetrically over its scale; a row of zeros stays zeros."""
    scales = _row_scales(rows)[:, np.newaxis]
    steps = rows / np.where(scales > 0, scales, np.float32(1))
    np.rint(steps, out=steps)
    np.clip(steps, -INT8_MAX, INT8_MAX, out=steps)
    return np.asarray(steps, dtype=np.int8)
