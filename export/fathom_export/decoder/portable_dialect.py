"""The dialect for any conforming runtime, TensorRT above all: standard operators of opset 24 only."""

import numpy as np
import onnx_ir as ir

from fathom_export.decoder.dialect import BATCH, SEQUENCE, Dialect
from fathom_export.decoder.graph_writer import Weight
from fathom_export.decoder.projections import Rows
from fathom_export.decoder.weights import Linear
from fathom_server.engine.settings import POSITION_IDS, WRITE_INDICES


class PortableDialect(Dialect):
    """TensorScatter into a cache of static length, then Attention under a mask made from the position ids.

    Any batch of rows with any pasts may bring any number of new tokens, as long as each row's fit into the cache.
    """

    _positions: ir.Value
    _write_indices: ir.Value
    _mask: ir.Value

    def declare_inputs(self) -> None:
        """See the base class; the mask lets a query see the keys at its own position and before."""
        graph = self._graph
        self.cache_length = self._max_context
        self._positions = graph.input(POSITION_IDS, ir.DataType.INT64, (BATCH, SEQUENCE))
        self._write_indices = graph.input(WRITE_INDICES, ir.DataType.INT64, (BATCH,))
        axes = graph.constant("axes.head_and_key", np.array([1, 3], np.int64))
        positions = graph.node("attention_mask.positions", "Unsqueeze", self._positions, axes)
        keys = graph.constant("attention_mask.keys", np.arange(self._max_context, dtype=np.int64))
        self._mask = graph.node("attention_mask", "LessOrEqual", keys, positions)

    def attention(
        self, name: str, layer: int, prepared: Rows, past_key: ir.Value, past_value: ir.Value
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """See the base class."""
        graph, form, weights = self._graph, self._architecture, self._weights
        query_linear, key_linear, value_linear = weights.query_key_value(layer)
        query_norm = weights.head_norm(layer, "q") if form.qk_norm else None
        key_norm = weights.head_norm(layer, "k") if form.qk_norm else None
        query = self._rotated(f"{name}.q", self._heads(f"{name}.q", prepared, query_linear, form.heads, query_norm))
        key = self._rotated(f"{name}.k", self._heads(f"{name}.k", prepared, key_linear, form.kv_heads, key_norm))
        value = self._heads(f"{name}.v", prepared, value_linear, form.kv_heads, None)
        keys = graph.node(f"{name}.key_cache", "TensorScatter", past_key, key, self._write_indices, axis=-2)
        values = graph.node(f"{name}.value_cache", "TensorScatter", past_value, value, self._write_indices, axis=-2)
        context = graph.node(f"{name}.context", "Attention", query, keys, values, self._mask)
        by_position = graph.node(f"{name}.by_position", "Transpose", context, perm=[0, 2, 1, 3])
        return self.join_heads(name, by_position, form.heads), keys, values

    def add_and_norm(self, name: str, residual: ir.Value, delta: ir.Value, weight: Weight) -> tuple[ir.Value, ir.Value]:
        """See the base class."""
        total = self._graph.node(f"{name}.residual", "Add", residual, delta)
        return total, self.norm(name, total, weight)

    def activation(self, name: str, value: ir.Value) -> ir.Value:
        """See the base class."""
        return self._graph.node(name, "Mul", value, self._graph.node(f"{name}.sigmoid", "Sigmoid", value))

    def _heads(self, name: str, prepared: Rows, linear: Linear, heads: int, norm: Weight | None) -> ir.Value:
        """Project and give each head its own axis: [batch, heads, sequence, head_dim]."""
        projection = f"{name}_proj"
        flat = self._projections.true_values(projection, self._projections.apply(projection, prepared, linear))
        value = self.split_heads(f"{name}.heads", flat, heads)
        if norm is not None:
            value = self.norm(f"{name}_norm", value, norm)
        return self._graph.node(f"{name}.by_head", "Transpose", value, perm=[0, 2, 1, 3])

    def _rotated(self, name: str, value: ir.Value) -> ir.Value:
        tables = (self._cosines, self._sines)
        return self._graph.node(f"{name}.rotated", "RotaryEmbedding", value, *tables, self._positions)
