"""The dialect for ONNX Runtime on CUDA: flat token rows over a paged cache, in float16 or with fp8 weights.

PagedAttention, not GroupQueryAttention: it takes rows of several sequences laid end to end, which is what a step of the
engine is, so decode, prefill and drafted tokens are one run, nothing is padded, and sequences may share blocks. It
norms and turns queries and keys itself, and with bounds given from the host it never waits for the device, so that a
run can be captured as a CUDA graph. For the same reason the graph has no operator that computes a shape or copies
sizes from the host (Shape, Split, Concat, TopK): the choice of tokens is a graph of its own (``sampling_graph``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from fathom_export.decoder.architecture import DecoderArchitecture
from fathom_export.decoder.cuda_matrices import CudaMatrices, half
from fathom_export.decoder.dialect import NamedNorm, capped_logits
from fathom_export.decoder.graph_writer import MICROSOFT, GraphWriter, Weight
from fathom_export.decoder.rope import Rope
from fathom_export.decoder.rotary import rotary_tables
from fathom_export.decoder.weights import DecoderWeights, Matrix, side_by_side
from fathom_export.errors import UnsupportedArchitectureError
from fathom_server.engine.settings import (
    ATTENTION_BOUNDS,
    BLOCK_TABLES,
    INPUT_IDS,
    LOGIT_ROWS,
    LOGITS,
    PAST_LENGTHS,
    ROW_STARTS,
    past_name,
    present_name,
)

CUDA_OPSET: Final = 23
"""Kernels of ONNX Runtime's CUDA provider are registered up to here; a newer Cast would be computed on the CPU."""
BLOCK_TOKENS: Final = 256
"""Tokens of one block of the cache: the only size that FlashAttention reads in place at every head size."""
HEAD_MULTIPLE: Final = 8
MOST_HEAD_DIM: Final = 256
"""PagedAttention takes heads of a multiple of 8 values; FlashAttention, which it runs, of at most 256."""
ROTARY_MULTIPLE: Final = 16

_HALF: Final = ir.DataType.FLOAT16
_SINGLE: Final = ir.DataType.FLOAT
_METADATA_PLACE: Final = 16


@dataclass(frozen=True, slots=True)
class _Places:
    """Where each sequence's rows and its part of the cache lie, as inputs of the graph."""

    row_starts: ir.Value
    past_lengths: ir.Value
    block_tables: ir.Value
    bounds: ir.Value


class CudaDecoder:
    """Writes the whole graph of one decoder; ``max_context`` is the length of the rotary tables in tokens.

    The residual is float16, as in transformers; of models that scale their embeddings up or norm what they add to it
    (Gemma, Granite), whose residual outgrows float16, it is float32, and so are their norms' inputs and results.
    """

    def __init__(
        self,
        graph: GraphWriter,
        architecture: DecoderArchitecture,
        weights: DecoderWeights,
        form: CudaMatrices,
        max_context: int,
    ) -> None:
        self._graph = graph
        self._architecture = architecture
        self._weights = weights
        self._form = form
        self._max_context = max_context
        self._rotary: dict[Rope, tuple[ir.Value, ir.Value]] = {}
        self._wide = architecture.embedding_scale != 1 or architecture.norm_placement == "both"

    def write(self) -> None:
        """Inputs, layers, logits. From the last layer's attention on, only the rows that get logits are computed."""
        graph, form, weights = self._graph, self._architecture, self._weights
        graph.model.graph.opset_imports[""] = CUDA_OPSET
        input_ids = graph.input(INPUT_IDS, ir.DataType.INT64, ("tokens",))
        logit_rows = graph.input(LOGIT_ROWS, ir.DataType.INT64, ("logit_rows",))
        places = _Places(
            graph.input(ROW_STARTS, ir.DataType.INT32, ("row_starts",)),
            graph.input(PAST_LENGTHS, ir.DataType.INT32, ("sequences",)),
            graph.input(BLOCK_TABLES, ir.DataType.INT32, ("sequences", "blocks_each")),
            graph.input(ATTENTION_BOUNDS, ir.DataType.INT32, (3,)),
        )
        residual = self._embed(weights.embedding(), input_ids)
        first = weights.attention_norm(0)
        normed = self._narrow("layer.0.attention_norm", residual, first)
        for layer in range(form.layers):
            name = f"layer.{layer}"
            is_last = layer == form.layers - 1
            context = self._attention(f"{name}.attention", layer, normed, places)
            if is_last:
                context = graph.node(f"{name}.attention.logit_rows", "Gather", context, logit_rows, axis=0)
                residual = graph.node(f"{name}.residual.logit_rows", "Gather", residual, logit_rows, axis=0)
            delta = self._form.product(graph, f"{name}.attention.o_proj", context, weights.attention_output(layer))
            residual, normed = self._next_input(
                (f"{name}.attention_output_norm", weights.attention_output_norm(layer)),
                (f"{name}.mlp_norm", weights.mlp_norm(layer)),
                residual,
                delta,
            )
            delta = self._mlp(f"{name}.mlp", layer, normed)
            residual, normed = self._next_input(
                (f"{name}.mlp_output_norm", weights.mlp_output_norm(layer)),
                ("final_norm", weights.final_norm())
                if is_last
                else (f"layer.{layer + 1}.attention_norm", weights.attention_norm(layer + 1)),
                residual,
                delta,
            )
        head = graph.weight(half(weights.lm_head().rows()))
        narrow = graph.node("lm_head.float16", "Gemm", normed, head, transB=1)
        logits = graph.node("lm_head", "Cast", narrow, to=_SINGLE)
        logits = capped_logits(graph, form, logits)
        graph.output(logits, LOGITS, _SINGLE, ("logit_rows", form.vocabulary))

    def _embed(self, matrix: Matrix, input_ids: ir.Value) -> ir.Value:
        """The residual's beginning [rows, hidden]."""
        graph = self._graph
        rows = graph.node("embedding", "Gather", graph.weight(half(matrix.rows())), input_ids, axis=0)
        if not self._wide:
            return rows
        wide = graph.node("embedding.float32", "Cast", rows, to=_SINGLE)
        factor = graph.constant("embedding.multiplier", np.array(self._architecture.embedding_scale, np.float32))
        return graph.node("embedding.scaled", "Mul", wide, factor)

    def _attention(self, name: str, layer: int, normed: ir.Value, places: _Places) -> ir.Value:
        """Context float16 [rows, heads × head_dim]; keys and values are written into the layer's part of the cache."""
        graph, form = self._graph, self._architecture
        shape = ("blocks", BLOCK_TOKENS, form.kv_heads, form.head_dim)
        cache = [graph.input(past_name(layer, part), _HALF, shape) for part in ("key", "value")]
        rope, window = form.layer_forms[layer].rope, form.layer_forms[layer].window
        norms: tuple[ir.Value | None, ir.Value | None] = (None, None)
        if form.qk_norm == "head":
            norms = self._norm_weight(layer, "q"), self._norm_weight(layer, "k")
        inputs: list[ir.Value | None] = [
            *self._query_key_value(name, layer, normed),
            *cache,
            places.row_starts,
            places.past_lengths,
            places.block_tables,
            *((None, None) if rope is None else self._tables(rope)),
            None,  # slots follow from the block tables
            None,  # no attention sink
            *norms,
        ]
        inputs += [None] * (_METADATA_PLACE - len(inputs))
        options: dict[str, Any] = {}
        if window is not None and window < self._max_context:
            options["local_window_size"] = window
        if form.attention_softcap is not None:
            options["softcap"] = form.attention_softcap
        if form.qk_norm == "head":
            options["qk_norm_epsilon"] = form.norm_epsilon
        context, key, value = graph.nodes(
            name,
            "PagedAttention",
            *inputs,
            places.bounds,
            outputs=("", ".key", ".value"),
            domain=MICROSOFT,
            num_heads=form.heads,
            kv_num_heads=form.kv_heads,
            do_rotary=0 if rope is None else 1,
            scale=form.attention_scale,
            **options,
        )
        graph.output(key, present_name(layer, "key"), _HALF, shape)
        graph.output(value, present_name(layer, "value"), _HALF, shape)
        return context

    def _query_key_value(
        self, name: str, layer: int, normed: ir.Value
    ) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
        """Query, key and value side by side from one product; apart where a norm is over all heads of one of them."""
        graph, form = self._graph, self._architecture
        parts = self._weights.query_key_value(layer)
        if form.qk_norm != "projection":
            linear = side_by_side(f"model.layers.{layer}.self_attn.qkv_proj", *parts)
            return self._form.product(graph, f"{name}.qkv_proj", normed, linear), None, None
        query, key, value = (
            self._form.product(graph, f"{name}.{part}_proj", normed, linear)
            for part, linear in zip("qkv", parts, strict=True)
        )
        return (
            self._rms(f"{name}.q_norm", query, self._norm_weight(layer, "q")),
            self._rms(f"{name}.k_norm", key, self._norm_weight(layer, "k")),
            value,
        )

    def _mlp(self, name: str, layer: int, normed: ir.Value) -> ir.Value:
        """What the MLP adds, float16 [rows, hidden]."""
        graph = self._graph
        gate_linear, up_linear = self._weights.gate_and_up(layer)
        gate = self._form.product(graph, f"{name}.gate_proj", normed, gate_linear)
        up = self._form.product(graph, f"{name}.up_proj", normed, up_linear)
        kind = self._architecture.activation
        if kind == "silu":
            activated = graph.node(f"{name}.activation", "QuickGelu", gate, domain=MICROSOFT, alpha=1.0)
        else:
            operator = "FastGelu" if kind == "gelu_tanh" else "Gelu"
            activated = graph.node(f"{name}.activation", operator, gate, domain=MICROSOFT)
        gated = graph.node(f"{name}.gated", "Mul", activated, up)
        return self._form.product(graph, f"{name}.down_proj", gated, self._weights.down(layer))

    def _next_input(
        self, output_norm: NamedNorm, input_norm: NamedNorm, residual: ir.Value, delta: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """The new residual, and float16 for the next product, after a part of the model that gave ``delta``."""
        graph, (name, weight) = self._graph, output_norm
        if self._wide:
            delta = graph.node(f"{name}.delta", "Cast", delta, to=_SINGLE)
        if weight is not None:
            delta = self._rms(name, delta, self._stream_weight(weight))
        name, weight = input_norm
        if weight is None:
            total = graph.node(f"{name}.residual", "Add", residual, delta)
            return total, self._narrow(name, total, None)
        normed, _, _, total = graph.nodes(
            name,
            "SkipSimplifiedLayerNormalization",
            residual,
            delta,
            self._stream_weight(weight),
            outputs=("", None, None, ".residual"),
            domain=MICROSOFT,
            epsilon=self._architecture.norm_epsilon,
        )
        return total, self._to_half(name, normed)

    def _narrow(self, name: str, residual: ir.Value, weight: Weight | None) -> ir.Value:
        """Float16 of a residual, or of its norm."""
        if weight is None:
            return self._to_half(name, residual)
        return self._to_half(name, self._rms(name, residual, self._stream_weight(weight)))

    def _to_half(self, name: str, value: ir.Value) -> ir.Value:
        return self._graph.node(f"{name}.float16", "Cast", value, to=_HALF) if self._wide else value

    def _rms(self, name: str, value: ir.Value, weight: ir.Value) -> ir.Value:
        """RMS norm over the last axis, its sum of squares in float32."""
        epsilon = self._architecture.norm_epsilon
        return self._graph.node(name, "RMSNormalization", value, weight, axis=-1, epsilon=epsilon)

    def _stream_weight(self, weight: Weight) -> ir.Value:
        """A norm's weights in the residual's type."""
        return self._graph.weight(weight if self._wide else half(weight))

    def _norm_weight(self, layer: int, part: str) -> ir.Value:
        return self._graph.weight(half(self._weights.query_key_norm(layer, part)))

    def _tables(self, rope: Rope) -> tuple[ir.Value, ir.Value]:
        """Cosines and sines of a rotary embedding, float16 [max_context, rotary values / 2]."""
        if rope not in self._rotary:
            name = f"rotary.{len(self._rotary)}" if self._rotary else "rotary"
            cosines, sines = rotary_tables(rope, self._max_context)
            constant: Callable[..., ir.Value] = self._graph.constant
            self._rotary[rope] = (
                constant(f"{name}.cosines", cosines.astype(np.float16)),
                constant(f"{name}.sines", sines.astype(np.float16)),
            )
        return self._rotary[rope]


def refuse_head_sizes(architecture: DecoderArchitecture) -> None:
    """Raise UnsupportedArchitectureError for head sizes that PagedAttention does not take."""
    sizes = [(f"head_dim {architecture.head_dim}", architecture.head_dim, HEAD_MULTIPLE)]
    ropes = {form.rope for form in architecture.layer_forms if form.rope is not None}
    sizes += [(f"{rope.dimensions} rotary values a head", rope.dimensions, ROTARY_MULTIPLE) for rope in ropes]
    for what, size, multiple in sizes:
        if size % multiple or size > MOST_HEAD_DIM:
            raise UnsupportedArchitectureError(
                f"{what} of this {architecture.model_type} is not supported in the cuda dialect, whose attention takes "
                f"multiples of {multiple} up to {MOST_HEAD_DIM}; use the portable dialect"
            )
