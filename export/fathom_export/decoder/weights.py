"""A decoder's weights in the layouts that its graph reads, each computed from the checkpoint when it is written."""

from collections.abc import Callable
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

EMBEDDING: Final = "model.embed_tokens.weight"
LM_HEAD: Final = "lm_head.weight"
FINAL_NORM: Final = "model.norm.weight"

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
        return Weight(self.name, ir.DataType.FLOAT, (self.outputs, self.inputs), self._read)

    def columns(self) -> Weight:
        """Float32 [inputs, outputs], as MatMul reads it."""
        return Weight(self.name, ir.DataType.FLOAT, (self.inputs, self.outputs), lambda: _transposed(self._read()))

    def int8_rows(self) -> Weight:
        """Int8 [outputs, inputs]: each row over its ``int8_scales``."""
        shape = (self.outputs, self.inputs)
        return Weight(f"{self.name}.int8_rows", ir.DataType.INT8, shape, lambda: _quantize_rows(self._read()))

    def int8_columns(self) -> Weight:
        """Int8 [inputs, outputs]: each column over its ``int8_scales``."""
        shape = (self.inputs, self.outputs)
        return Weight(f"{self.name}.int8", ir.DataType.INT8, shape, lambda: _transposed(_quantize_rows(self._read())))

    def int8_scales(self) -> Weight:
        """Float32 [outputs]: the largest magnitude of an output's weights over 127; 0 where all are 0."""
        return Weight(f"{self.name}.scale", ir.DataType.FLOAT, (self.outputs,), lambda: _row_scales(self._read()))

    def _read(self) -> npt.NDArray[np.float32]:
        if len(self.parts) == 1:
            return self.parts[0].read()
        return np.concatenate([part.read() for part in self.parts])


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
        """Weights of the norm before the LM head, float32 [hidden]."""
        return self._vector(FINAL_NORM, self._architecture.hidden)

    def attention_norm(self, layer: int) -> Weight:
        """Weights of the norm before attention, float32 [hidden]."""
        return self._vector(f"model.layers.{layer}.input_layernorm.weight", self._architecture.hidden)

    def mlp_norm(self, layer: int) -> Weight:
        """Weights of the norm before the MLP, float32 [hidden]."""
        return self._vector(f"model.layers.{layer}.post_attention_layernorm.weight", self._architecture.hidden)

    def head_norm(self, layer: int, part: str, factor: float = 1.0) -> Weight:
        """Weights of the norm over each head of ``q`` or ``k``, times a factor, float32 [head_dim]."""
        return self._vector(f"model.layers.{layer}.self_attn.{part}_norm.weight", self._architecture.head_dim, factor)

    def query_key_value(self, layer: int, query_factor: float = 1.0) -> tuple[Linear, Linear, Linear]:
        """The projections into attention: [heads × head_dim, hidden], and twice [kv_heads × head_dim, hidden].

        The query's weights and bias are times a factor.
        """
        form = self._architecture
        queries = form.heads * form.head_dim
        return (
            self._linear(layer, "self_attn.q_proj", queries, form.hidden, form.qkv_bias, query_factor),
            self._linear(layer, "self_attn.k_proj", form.kv_heads * form.head_dim, form.hidden, form.qkv_bias),
            self._linear(layer, "self_attn.v_proj", form.kv_heads * form.head_dim, form.hidden, form.qkv_bias),
        )

    def attention_output(self, layer: int) -> Linear:
        """The projection out of attention, [hidden, heads × head_dim]."""
        form = self._architecture
        return self._linear(layer, "self_attn.o_proj", form.hidden, form.heads * form.head_dim, form.output_bias)

    def gate(self, layer: int) -> Linear:
        """The MLP's gate, [intermediate, hidden]."""
        form = self._architecture
        return self._linear(layer, "mlp.gate_proj", form.intermediate, form.hidden, form.mlp_bias)

    def up(self, layer: int) -> Linear:
        """The MLP's way up, [intermediate, hidden]."""
        form = self._architecture
        return self._linear(layer, "mlp.up_proj", form.intermediate, form.hidden, form.mlp_bias)

    def down(self, layer: int) -> Linear:
        """The MLP's way down, [hidden, intermediate]."""
        form = self._architecture
        return self._linear(layer, "mlp.down_proj", form.hidden, form.intermediate, form.mlp_bias)

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

    def _linear(self, layer: int, part: str, outputs: int, inputs: int, has_bias: bool, factor: float = 1.0) -> Linear:
        name = f"model.layers.{layer}.{part}"
        matrix = Matrix(f"{name}.weight", (self._stored(f"{name}.weight", (outputs, inputs)).times(factor),))
        return Linear(matrix, self._vector(f"{name}.bias", outputs, factor) if has_bias else None)

    def _vector(self, name: str, size: int, factor: float = 1.0) -> Weight:
        return Weight(name, ir.DataType.FLOAT, (size,), self._stored(name, (size,)).times(factor).read)

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
    return np.ascontiguousarray(array.T)


def _row_scales(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(np.abs(rows).max(axis=1) / np.float32(INT8_MAX), dtype=np.float32)


def _quantize_rows(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Round to nearest, each row symmetrically over its scale; a row of zeros stays zeros."""
    scales = _row_scales(rows)[:, np.newaxis]
    steps = np.divide(rows, scales, out=np.zeros_like(rows), where=scales > 0)
    return np.asarray(np.rint(steps).clip(-INT8_MAX, INT8_MAX), dtype=np.int8)
