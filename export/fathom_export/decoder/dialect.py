"""What the dialects of a decoder graph share, and what each must say for itself."""

from abc import ABC, abstractmethod
from typing import Final

import numpy as np
import onnx_ir as ir

from fathom_export.decoder.architecture import DecoderArchitecture
from fathom_export.decoder.graph_writer import GraphWriter, Weight
from fathom_export.decoder.projections import Projections, Rows
from fathom_export.decoder.rope import Rope
from fathom_export.decoder.rotary import rotary_tables
from fathom_export.decoder.weights import DecoderWeights
from fathom_server.engine.settings import past_name, present_name

BATCH: Final = "batch"
SEQUENCE: Final = "sequence"
LOGIT_ROWS: Final = "logit_rows"

RotaryConstants = dict[Rope, tuple[ir.Value, ir.Value]]
"""Cosines and sines of each rotary embedding, as the graph's constants."""

NamedNorm = tuple[str, Weight | None]
"""A norm's name in the graph, and its weights if there is such a norm."""


class Dialect(ABC):
    """The operators that a decoder's norms, attention and activation are written in.

    ``max_context`` is the length of the rotary tables in tokens, and of the cache where the dialect's is static.
    """

    cache_length: int | str
    """The cache's length in tokens, or the name of a dimension that the caller chooses."""

    def __init__(
        self,
        graph: GraphWriter,
        architecture: DecoderArchitecture,
        weights: DecoderWeights,
        projections: Projections,
        max_context: int,
    ) -> None:
        self._graph = graph
        self._architecture = architecture
        self._weights = weights
        self._projections = projections
        self._max_context = max_context
        self._rotary = rotary_constants(graph, architecture, max_context)

    @abstractmethod
    def declare_inputs(self) -> None:
        """Declare the inputs that are this dialect's own, after ids and positions and before the cache."""

    @abstractmethod
    def attention(
        self, name: str, layer: int, prepared: Rows, past_key: ir.Value, past_value: ir.Value
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Project prepared hidden states, write keys and values into the cache, attend.

        Gives the context, float32 [batch, sequence, heads × head_dim], and the cache after it: key and value, each
        [batch, kv_heads, cache length, head_dim].
        """

    @abstractmethod
    def add_and_norm(self, name: str, residual: ir.Value, delta: ir.Value, weight: Weight) -> tuple[ir.Value, ir.Value]:
        """The new residual, ``residual`` + ``delta``, and its norm."""

    @abstractmethod
    def silu(self, name: str, value: ir.Value) -> ir.Value:
        """SiLU: x · sigmoid(x)."""

    def activation(self, name: str, value: ir.Value) -> ir.Value:
        """The MLP's activation."""
        kind = self._architecture.activation
        if kind == "silu":
            return self.silu(name, value)
        return self._graph.node(name, "Gelu", value, approximate="tanh" if kind == "gelu_tanh" else "none")

    def next_input(
        self, output_norm: NamedNorm, input_norm: NamedNorm, residual: ir.Value, delta: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """The new residual and what the next part of the model reads, after one that gave ``delta``.

        Either norm, each with the name of its node, may be absent: that of ``delta``, and that of the new residual.
        """
        name, weight = output_norm
        if weight is not None:
            delta = self.norm(name, delta, weight)
        name, weight = input_norm
        if weight is not None:
            return self.add_and_norm(name, residual, delta, weight)
        total = self._graph.node(f"{name}.residual", "Add", residual, delta)
        return total, total

    def window(self, layer: int) -> int | None:
        """How many tokens a query of this layer sees, itself among them; None if all that fit into the cache."""
        window = self._architecture.layer_forms[layer].window
        return None if window is None or window >= self._max_context else window

    def norm(self, name: str, value: ir.Value, weight: Weight) -> ir.Value:
        """RMS norm over the last axis."""
        epsilon = self._architecture.norm_epsilon
        return self._graph.node(name, "RMSNormalization", value, self._graph.weight(weight), axis=-1, epsilon=epsilon)

    def cached_attention(self, name: str, layer: int, prepared: Rows) -> ir.Value:
        """``attention`` over the layer's cache inputs and outputs, which are declared here."""
        form = self._architecture
        shape = (BATCH, form.kv_heads, self.cache_length, form.head_dim)
        past_key = self._graph.input(past_name(layer, "key"), ir.DataType.FLOAT, shape)
        past_value = self._graph.input(past_name(layer, "value"), ir.DataType.FLOAT, shape)
        context, key, value = self.attention(name, layer, prepared, past_key, past_value)
        self._graph.output(key, present_name(layer, "key"), ir.DataType.FLOAT, shape)
        self._graph.output(value, present_name(layer, "value"), ir.DataType.FLOAT, shape)
        return context

    def split_heads(self, name: str, value: ir.Value, heads: int) -> ir.Value:
        """[batch, sequence, heads × head_dim] → [batch, sequence, heads, head_dim]."""
        shape = np.array([0, 0, heads, self._architecture.head_dim], np.int64)
        return self._graph.node(name, "Reshape", value, self._graph.constant(f"shape.{heads}_heads", shape))

    def join_heads(self, name: str, value: ir.Value, heads: int) -> ir.Value:
        """[batch, sequence, heads, head_dim] → [batch, sequence, heads × head_dim]."""
        columns = heads * self._architecture.head_dim
        shape = self._graph.constant(f"shape.{columns}_columns", np.array([0, 0, columns], np.int64))
        return self._graph.node(name, "Reshape", value, shape)


def rotary_constants(graph: GraphWriter, architecture: DecoderArchitecture, max_context: int) -> RotaryConstants:
    """The rotary tables of every layer, of ``max_context`` positions."""
    constants: RotaryConstants = {}
    for form in architecture.layer_forms:
        if form.rope is not None and form.rope not in constants:
            name = f"rotary.{len(constants)}" if constants else "rotary"
            cosines, sines = rotary_tables(form.rope, max_context)
            constants[form.rope] = graph.constant(f"{name}.cosines", cosines), graph.constant(f"{name}.sines", sines)
    return constants


def scaled_embedding(graph: GraphWriter, architecture: DecoderArchitecture, residual: ir.Value) -> ir.Value:
    """The residual's beginning, multiplied where the model scales its embeddings."""
    if architecture.embedding_scale == 1:
        return residual
    factor = graph.constant("embedding.multiplier", np.array(architecture.embedding_scale, np.float32))
    return graph.node("embedding.scaled", "Mul", residual, factor)


def capped_logits(graph: GraphWriter, architecture: DecoderArchitecture, logits: ir.Value) -> ir.Value:
    """Logits float32 under the model's soft cap, if it has one: tanh(logits) × cap.

    The division by the cap is in the final norm's weights.
    """
    if architecture.logit_softcap is None:
        return logits
    bounded = graph.node("lm_head.bounded", "Tanh", logits)
    cap = graph.constant("lm_head.cap", np.array(architecture.logit_softcap, np.float32))
    return graph.node("lm_head.capped", "Mul", bounded, cap)


def split_query_key_value(
    graph: GraphWriter, architecture: DecoderArchitecture, name: str, packed: ir.Value
) -> tuple[ir.Value, ...]:
    """Query, key and value of the product that computes them side by side."""
    sizes = np.array([architecture.heads, architecture.kv_heads, architecture.kv_heads], np.int64)
    return graph.nodes(
        f"{name}.split",
        "Split",
        packed,
        graph.constant("shape.query_key_value", sizes * architecture.head_dim),
        outputs=(".query", ".key", ".value"),
        axis=-1,
    )
