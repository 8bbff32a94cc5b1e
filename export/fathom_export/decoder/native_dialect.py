"""The graph for Fathom's own operators: flat token rows, a paged cache, and the stock graph's weights.

Operators of domain ``fathom`` (``fathom_server/native``) do what takes several of ONNX Runtime's: ``Linear`` adds what
the last part of the model gave to the residual, normalises, quantises, multiplies and activates; ``Attention`` turns
queries and keys, writes the cache and attends. Weights are those of ``CpuDialect``'s graph, under the same names.
"""

from dataclasses import dataclass
from typing import Any, Final

import onnx_ir as ir

from fathom_export.decoder.architecture import DecoderArchitecture
from fathom_export.decoder.dialect import capped_logits, rotary_constants, scaled_embedding, split_query_key_value
from fathom_export.decoder.graph_writer import GraphWriter, Weight
from fathom_export.decoder.native_matrices import NativeMatrices, QuantisedMatrix
from fathom_export.decoder.weights import DecoderWeights, Linear, side_by_side
from fathom_server.engine.settings import (
    BLOCK_TABLES,
    INPUT_IDS,
    KV_CACHE,
    LOGIT_ROWS,
    LOGITS,
    PAST_LENGTHS,
    ROW_STARTS,
    KvDtype,
)

FATHOM: Final = "fathom"
"""The domain of Fathom's operators."""
BLOCK_TOKENS: Final = 32
"""Tokens of one block of the cache."""


@dataclass(frozen=True, slots=True)
class _Stream:
    """What flows between the parts of the model: the residual [rows, hidden] and what is still to be added to it."""

    residual: ir.Value
    delta: ir.Value | None = None


class NativeDecoder:
    """Writes the whole graph of one decoder; ``max_context`` is the length of the rotary tables in tokens."""

    def __init__(
        self,
        graph: GraphWriter,
        architecture: DecoderArchitecture,
        weights: DecoderWeights,
        form: NativeMatrices,
        max_context: int,
        kv_dtype: KvDtype,
    ) -> None:
        self._graph = graph
        self._architecture = architecture
        self._weights = weights
        self._form = form
        self._max_context = max_context
        self._kv_dtype = kv_dtype
        self._rotary = rotary_constants(graph, architecture, max_context)

    def write(self) -> None:
        """Inputs, layers, logits.

        From the last layer's attention on, only the rows that get logits are computed.
        """
        graph, form, weights = self._graph, self._architecture, self._weights
        input_ids = graph.input(INPUT_IDS, ir.DataType.INT64, ("rows",))
        logit_rows = graph.input(LOGIT_ROWS, ir.DataType.INT64, ("logit_rows",))
        places = self._declare_cache()
        residual = self._form.embed(graph, weights.embedding(), input_ids)
        stream = _Stream(scaled_embedding(graph, form, residual))
        for layer in range(form.layers):
            name = f"layer.{layer}"
            linear = side_by_side(f"model.layers.{layer}.self_attn.qkv_proj", *self._query_key_value(layer))
            packed, stream = self._linear(f"{name}.attention.qkv_proj", stream, linear, weights.attention_norm(layer))
            context = self._attention(f"{name}.attention", layer, packed, places)
            if layer == form.layers - 1:
                context = graph.node(f"{name}.attention.logit_rows", "Gather", context, logit_rows, axis=0)
                wanted = graph.node(f"{name}.residual.logit_rows", "Gather", stream.residual, logit_rows, axis=0)
                stream = _Stream(wanted)
            output, _ = self._linear(f"{name}.attention.o_proj", _Stream(context), weights.attention_output(layer))
            stream = self._add(f"{name}.attention_output_norm", stream, output, weights.attention_output_norm(layer))
            gated, stream = self._gated(f"{name}.mlp", layer, stream)
            output, _ = self._linear(f"{name}.mlp.down_proj", _Stream(gated), weights.down(layer))
            stream = self._add(f"{name}.mlp_output_norm", stream, output, weights.mlp_output_norm(layer))
        head = self._form.lm_head(weights.lm_head())
        logits, _ = self._product("lm_head", stream, head, None, weights.final_norm(), keep_residual=False)
        logits = capped_logits(graph, form, logits)
        graph.output(logits, LOGITS, ir.DataType.FLOAT, ("logit_rows", form.vocabulary))

    def _declare_cache(self) -> tuple[ir.Value, ...]:
        """The cache and where each sequence's part of it lies, in the order of ``Attention``'s inputs."""
        graph, sequences = self._graph, "sequences"
        row_starts = graph.input(ROW_STARTS, ir.DataType.INT32, ("row_starts",))
        past_lengths = graph.input(PAST_LENGTHS, ir.DataType.INT32, (sequences,))
        block_tables = graph.input(BLOCK_TABLES, ir.DataType.INT32, (sequences, "blocks_each"))
        cache = graph.input(KV_CACHE, ir.DataType.UINT8, (self._architecture.layers, "blocks", "block_bytes"))
        return cache, row_starts, past_lengths, block_tables

    def _query_key_value(self, layer: int) -> tuple[Linear, Linear, Linear]:
        """As in ``CpuDialect``, whose weights these are: the scale of the scores is in the query's, or its norm's."""
        form = self._architecture
        return self._weights.query_key_value(layer, 1.0 if form.qk_norm else form.attention_scale)

    def _attention(self, name: str, layer: int, packed: ir.Value, places: tuple[ir.Value, ...]) -> ir.Value:
        """Context float32 [rows, heads × head_dim] of packed query, key and value."""
        graph, form, weights = self._graph, self._architecture, self._weights
        norms: tuple[ir.Value | None, ...] = (None, None)
        if form.qk_norm is not None:
            query_norm = weights.query_key_norm(layer, "q", form.attention_scale)
            key_norm = weights.query_key_norm(layer, "k")
            if form.qk_norm == "head":
                norms = graph.weight(query_norm), graph.weight(key_norm)
            else:
                packed = self._normed_projections(name, packed, query_norm, key_norm)
        rope, window = form.layer_forms[layer].rope, form.layer_forms[layer].window
        tables = (None, None) if rope is None else self._rotary[rope]
        return graph.node(
            name,
            "Attention",
            packed,
            *places,
            *_without_trailing_none(*tables, *norms),
            domain=FATHOM,
            layer=layer,
            heads=form.heads,
            kv_heads=form.kv_heads,
            head_dim=form.head_dim,
            block_tokens=BLOCK_TOKENS,
            scale=1.0,
            window=0 if window is None or window >= self._max_context else window,
            softcap=form.attention_softcap or 0.0,
            epsilon=form.norm_epsilon,
            kv_dtype=self._kv_dtype,
        )

    def _normed_projections(self, name: str, packed: ir.Value, query_norm: Weight, key_norm: Weight) -> ir.Value:
        """Query and key normalised over all heads together."""
        form, graph = self._architecture, self._graph
        query, key, value = split_query_key_value(graph, form, name, packed)
        query = self._norm(f"{name}.q_norm", query, query_norm)
        key = self._norm(f"{name}.k_norm", key, key_norm)
        return graph.node(f"{name}.normed", "Concat", query, key, value, axis=-1)

    def _gated(self, name: str, layer: int, stream: _Stream) -> tuple[ir.Value, _Stream]:
        """Activation of the gate × the way up: float32 [rows, intermediate]."""
        gate, up = self._weights.gate_and_up(layer)
        gate_matrix, up_matrix = self._form.matrix(gate.matrix), self._form.matrix(up.matrix)
        second = (up_matrix.weight, up_matrix.scale, up_matrix.zero_points, up.bias)
        return self._product(
            f"{name}.gate_and_up",
            stream,
            gate_matrix,
            gate.bias,
            self._weights.mlp_norm(layer),
            second=second,
            activation=self._architecture.activation,
        )

    def _linear(
        self, name: str, stream: _Stream, linear: Linear, norm: Weight | None = None
    ) -> tuple[ir.Value, _Stream]:
        return self._product(name, stream, self._form.matrix(linear.matrix), linear.bias, norm)

    def _product(
        self,
        name: str,
        stream: _Stream,
        matrix: QuantisedMatrix,
        bias: Weight | None,
        norm: Weight | None,
        *,
        second: tuple[Weight | None, ...] = (),
        activation: str = "none",
        keep_residual: bool = True,
    ) -> tuple[ir.Value, _Stream]:
        """One ``Linear``: its product, and the stream after whatever was to be added to the residual."""
        graph = self._graph
        weights = (norm, matrix.weight, matrix.scale, matrix.zero_points, bias, *second)
        values = [None if weight is None else graph.weight(weight) for weight in weights]
        adds = stream.delta is not None and keep_residual
        found = graph.nodes(
            name,
            "Linear",
            stream.residual,
            stream.delta,
            *_without_trailing_none(*values),
            outputs=("", ".residual") if adds else ("",),
            domain=FATHOM,
            epsilon=self._architecture.norm_epsilon,
            bits=matrix.bits,
            block_size=matrix.block_size,
            K=matrix.inputs,
            N=matrix.outputs,
            activation=activation,
        )
        return found[0], _Stream(found[1]) if adds else _Stream(stream.residual)

    def _add(self, name: str, stream: _Stream, delta: ir.Value, norm: Weight | None) -> _Stream:
        """The stream with something to be added by whoever reads it next."""
        return _Stream(stream.residual, delta if norm is None else self._norm(name, delta, norm))

    def _norm(self, name: str, value: ir.Value, weight: Weight) -> ir.Value:
        epsilon = self._architecture.norm_epsilon
        return self._graph.node(name, "RMSNormalization", value, self._graph.weight(weight), axis=-1, epsilon=epsilon)


def _without_trailing_none(*values: Any) -> tuple[Any, ...]:
    count = max((place + 1 for place, value in enumerate(values) if value is not None), default=0)
    return values[:count]
