"""The dialect for ONNX Runtime on CPU: its own fused operators over shared cache buffers."""

from typing import Any

import onnx_ir as ir

from fathom_export.decoder.dialect import BATCH, Dialect, split_query_key_value
from fathom_export.decoder.graph_writer import MICROSOFT, Weight
from fathom_export.decoder.projections import Rows
from fathom_export.decoder.weights import side_by_side
from fathom_server.engine.settings import SEQLENS_K, TOTAL_SEQUENCE_LENGTH


class CpuDialect(Dialect):
    """GroupQueryAttention with rotary inside, on cache buffers of any length up to the rotary tables'.

    A step with more than one new token and a past must be of batch 1; a one-token step may have any ragged batch.
    """

    _lengths: ir.Value
    _longest: ir.Value

    def declare_inputs(self) -> None:
        """See the base class."""
        self.cache_length = "cache_length"
        self._lengths = self._graph.input(SEQLENS_K, ir.DataType.INT32, (BATCH,))
        self._longest = self._graph.input(TOTAL_SEQUENCE_LENGTH, ir.DataType.INT32, ())

    def attention(
        self, name: str, layer: int, prepared: Rows, past_key: ir.Value, past_value: ir.Value
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """See the base class. Query, key and value are one matrix product.

        The scale of the scores is folded into the query's weights, or its norm's: with a scale of 1, ONNX Runtime
        multiplies one query by the keys without packing them first.
        """
        form = self._architecture
        scale = form.attention_scale
        query_factor = 1.0 if form.qk_norm else scale
        linear = side_by_side(
            f"model.layers.{layer}.self_attn.qkv_proj", *self._weights.query_key_value(layer, query_factor)
        )
        packed = self._projections.apply(f"{name}.qkv_proj", prepared, linear)
        query, key, value = self._projections.true_values(f"{name}.qkv_proj", packed), None, None
        if form.qk_norm:
            query, key, value = self._normed_query_and_key(name, layer, query, scale)
        rope, window = form.layer_forms[layer].rope, self.window(layer)
        options: dict[str, Any] = {"local_window_size": window} if window is not None else {}
        if form.attention_softcap is not None:
            options["softcap"] = form.attention_softcap
        context, present_key, present_value = self._graph.nodes(
            name,
            "GroupQueryAttention",
            query,
            key,
            value,
            past_key,
            past_value,
            self._lengths,
            self._longest,
            *(() if rope is None else self._rotary[rope]),
            outputs=("", ".key", ".value"),
            domain=MICROSOFT,
            num_heads=form.heads,
            kv_num_heads=form.kv_heads,
            do_rotary=0 if rope is None else 1,
            scale=1.0,
            **options,
        )
        return context, present_key, present_value

    def add_and_norm(self, name: str, residual: ir.Value, delta: ir.Value, weight: Weight) -> tuple[ir.Value, ir.Value]:
        """See the base class."""
        normed, _, _, total = self._graph.nodes(
            name,
            "SkipSimplifiedLayerNormalization",
            residual,
            delta,
            self._graph.weight(weight),
            outputs=("", None, None, ".residual"),
            domain=MICROSOFT,
            epsilon=self._architecture.norm_epsilon,
        )
        return total, normed

    def silu(self, name: str, value: ir.Value) -> ir.Value:
        """See the base class. QuickGelu is x · sigmoid(alpha · x)."""
        return self._graph.node(name, "QuickGelu", value, domain=MICROSOFT, alpha=1.0)

    def _normed_query_and_key(
        self, name: str, layer: int, packed: ir.Value, query_factor: float
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        form = self._architecture
        query, key, value = split_query_key_value(self._graph, form, name, packed)
        query_weight = self._weights.query_key_norm(layer, "q", query_factor)
        return (
            self._normed(f"{name}.q_norm", query, form.heads, query_weight),
            self._normed(f"{name}.k_norm", key, form.kv_heads, self._weights.query_key_norm(layer, "k")),
            value,
        )

    def _normed(self, name: str, value: ir.Value, heads: int, weight: Weight) -> ir.Value:
        if self._architecture.qk_norm == "projection":
            return self.norm(name, value, weight)
        normed = self.norm(name, self.split_heads(f"{name}.heads", value, heads), weight)
        return self.join_heads(f"{name}.joined", normed, heads)
