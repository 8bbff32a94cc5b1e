"""The dialect for any conforming runtime, TensorRT above all: standard operators of opset 24 only."""

from typing import Any, Final

import numpy as np
import onnx_ir as ir

from fathom_export.decoder.dialect import BATCH, SEQUENCE, Dialect
from fathom_export.decoder.graph_writer import Weight
from fathom_export.decoder.projections import Rows
from fathom_export.decoder.weights import Linear
from fathom_server.engine.settings import POSITION_IDS, WRITE_INDICES

_HIDDEN_SCORE: Final = -10_000.0
"""What a masked key's score is set to under a soft cap: far below any capped score, and within float16's range."""


class PortableDialect(Dialect):
    """TensorScatter into a cache of static length, then Attention under a mask made from the position ids.

    Any batch of rows with any pasts may bring any number of new tokens, as long as each row's fit into the cache.
    """

    _positions: ir.Value
    _write_indices: ir.Value

    def declare_inputs(self) -> None:
        """See the base class."""
        graph = self._graph
        self.cache_length = self._max_context
        self._positions = graph.input(POSITION_IDS, ir.DataType.INT64, (BATCH, SEQUENCE))
        self._write_indices = graph.input(WRITE_INDICES, ir.DataType.INT64, (BATCH,))
        self._masks: dict[int | None, ir.Value] = {}

    def attention(
        self, name: str, layer: int, prepared: Rows, past_key: ir.Value, past_value: ir.Value
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """See the base class. A sliding window is a part of the mask."""
        graph, form = self._graph, self._architecture
        query_linear, key_linear, value_linear = self._weights.query_key_value(layer)
        query = self._rotated(f"{name}.q", layer, self._heads(f"{name}.q", layer, prepared, query_linear))
        key = self._rotated(f"{name}.k", layer, self._heads(f"{name}.k", layer, prepared, key_linear))
        value = self._heads(f"{name}.v", layer, prepared, value_linear)
        keys = graph.node(f"{name}.key_cache", "TensorScatter", past_key, key, self._write_indices, axis=-2)
        values = graph.node(f"{name}.value_cache", "TensorScatter", past_value, value, self._write_indices, axis=-2)
        mask = self._mask(self.window(layer))
        if form.attention_softcap is not None:
            context = self._capped_attention(name, query, keys, values, mask, form.attention_softcap)
        else:
            usual = form.attention_scale == form.head_dim**-0.5
            scale: dict[str, Any] = {} if usual else {"scale": form.attention_scale}
            context = graph.node(f"{name}.context", "Attention", query, keys, values, mask, **scale)
        by_position = graph.node(f"{name}.by_position", "Transpose", context, perm=[0, 2, 1, 3])
        return self.join_heads(name, by_position, form.heads), keys, values

    def add_and_norm(self, name: str, residual: ir.Value, delta: ir.Value, weight: Weight) -> tuple[ir.Value, ir.Value]:
        """See the base class."""
        total = self._graph.node(f"{name}.residual", "Add", residual, delta)
        return total, self.norm(name, total, weight)

    def silu(self, name: str, value: ir.Value) -> ir.Value:
        """See the base class."""
        return self._graph.node(name, "Mul", value, self._graph.node(f"{name}.sigmoid", "Sigmoid", value))

    def _mask(self, window: int | None) -> ir.Value:
        """Which keys each query sees, bool [batch, 1, sequence, cache length]: its own and so many before it."""
        if window not in self._masks:
            self._masks[window] = self._new_mask(window)
        return self._masks[window]

    def _new_mask(self, window: int | None) -> ir.Value:
        graph = self._graph
        name = "attention_mask"
        keys = graph.constant(f"{name}.keys", np.arange(self._max_context, dtype=np.int64))
        if window is None:
            axes = graph.constant("axes.head_and_key", np.array([1, 3], np.int64))
            self._query_positions = graph.node(f"{name}.positions", "Unsqueeze", self._positions, axes)
            return graph.node(name, "LessOrEqual", keys, self._query_positions)
        causal = self._mask(None)
        name = f"{name}.window_{window}"
        size = graph.constant(f"{name}.size", np.array(window, np.int64))
        begin = graph.node(f"{name}.begin", "Sub", self._query_positions, size)
        return graph.node(name, "And", causal, graph.node(f"{name}.near", "Greater", keys, begin))

    def _capped_attention(
        self, name: str, query: ir.Value, keys: ir.Value, values: ir.Value, mask: ir.Value, cap: float
    ) -> ir.Value:
        """Attention under a soft cap, in plain operators.

        The standard Attention has an attribute for it, but its specification first capped after masking, which lets
        every masked key in, and was mended in place (onnx/onnx#7865): runtimes differ. Gives float32
        [batch, heads, sequence, head_dim].
        """
        graph, form = self._graph, self._architecture
        width, length = form.head_dim, self._max_context
        by_group = graph.constant("shape.queries_by_group", np.array([0, form.kv_heads, -1, width], np.int64))
        scores_by_head = graph.constant("shape.scores_by_head", np.array([0, form.heads, -1, length], np.int64))
        scores_by_group = graph.constant("shape.scores_by_group", np.array([0, form.kv_heads, -1, length], np.int64))
        by_head = graph.constant("shape.queries_by_head", np.array([0, form.heads, -1, width], np.int64))
        factor = graph.constant("attention.scale_over_cap", np.array(form.attention_scale / cap, np.float32))
        queries = graph.node(f"{name}.queries", "Mul", query, factor)
        queries = graph.node(f"{name}.queries_by_group", "Reshape", queries, by_group)
        transposed = graph.node(f"{name}.transposed_keys", "Transpose", keys, perm=[0, 1, 3, 2])
        scores = graph.node(f"{name}.scores", "MatMul", queries, transposed)
        bounded = graph.node(f"{name}.bounded", "Tanh", scores)
        capped = graph.node(
            f"{name}.capped", "Mul", bounded, graph.constant("attention.cap", np.array(cap, np.float32))
        )
        capped = graph.node(f"{name}.capped_by_head", "Reshape", capped, scores_by_head)
        hidden = graph.constant("attention.hidden_score", np.array(_HIDDEN_SCORE, np.float32))
        masked = graph.node(f"{name}.masked", "Where", mask, capped, hidden)
        weights = graph.node(f"{name}.weights", "Softmax", masked, axis=-1)
        weights = graph.node(f"{name}.weights_by_group", "Reshape", weights, scores_by_group)
        context = graph.node(f"{name}.context_by_group", "MatMul", weights, values)
        return graph.node(f"{name}.context", "Reshape", context, by_head)

    def _heads(self, name: str, layer: int, prepared: Rows, linear: Linear) -> ir.Value:
        """Project, norm queries and keys, and give each head its own axis: [batch, heads, sequence, head_dim]."""
        projection, part, form = f"{name}_proj", name[-1], self._architecture
        flat = self._projections.true_values(projection, self._projections.apply(projection, prepared, linear))
        norm = self._weights.query_key_norm(layer, part) if form.qk_norm and part != "v" else None
        if norm is not None and form.qk_norm == "projection":
            flat = self.norm(f"{name}_norm", flat, norm)
        value = self.split_heads(f"{name}.heads", flat, form.heads if part == "q" else form.kv_heads)
        if norm is not None and form.qk_norm == "head":
            value = self.norm(f"{name}_norm", value, norm)
        return self._graph.node(f"{name}.by_head", "Transpose", value, perm=[0, 2, 1, 3])

    def _rotated(self, name: str, layer: int, value: ir.Value) -> ir.Value:
        form = self._architecture
        rope = form.layer_forms[layer].rope
        if rope is None:
            return value
        partial: dict[str, Any] = {} if rope.dimensions == form.head_dim else {"rotary_embedding_dim": rope.dimensions}
        tables = self._rotary[rope]
        return self._graph.node(f"{name}.rotated", "RotaryEmbedding", value, *tables, self._positions, **partial)
