"""The cuda dialect's graph in numpy: its operators as their schemas describe them, all in float32."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from fathom_server.engine import settings as names
from fathom_server.engine.runner.base import StepRow
from fathom_server.engine.settings import GRAPH_FILE, GraphDescription

Floats = npt.NDArray[np.float32]
MICROSOFT = "com.microsoft"


def _rms(value: Floats, weight: Floats, epsilon: float) -> Floats:
    return value / np.sqrt((value * value).mean(axis=-1, keepdims=True) + np.float32(epsilon)) * weight


class PagedAttention(OpRun):
    """Ragged rows over blocks: norm, turn, write, attend; causal, its mask aligned to each sequence's last token."""

    op_domain = MICROSOFT

    def _run(self, query: Any, *rest: Any, **options: Any) -> tuple[Any, Any, Any]:
        key, value, key_cache, value_cache, starts, pasts, table, cosines, sines, slots, sink, q_norm, k_norm = rest[
            :13
        ]
        bounds = rest[15]
        assert slots is None
        assert sink is None
        heads, kv_heads = options["num_heads"], options["kv_num_heads"]
        if key is None:
            width = query.shape[1] // (heads + 2 * kv_heads)
            query, key, value = np.split(query, [heads * width, (heads + kv_heads) * width], axis=1)
        width = query.shape[1] // heads
        query, key, value = (part.reshape(len(part), -1, width) for part in (query, key, value))
        if q_norm is not None:
            epsilon = options["qk_norm_epsilon"]
            query, key = _rms(query, q_norm, epsilon), _rms(key, k_norm, epsilon)
        context = np.zeros_like(query)
        size = key_cache.shape[1]
        for sequence, past in enumerate(pasts):
            rows = slice(starts[sequence], starts[sequence + 1])
            count = int(rows.stop - rows.start)
            positions = np.arange(past, past + count)
            assert count <= bounds[0]
            assert past + count <= bounds[1]
            if options["do_rotary"]:
                query[rows], key[rows] = (_turned(part[rows], cosines, sines, positions) for part in (query, key))
            blocks = table[sequence]
            key_cache[blocks[positions // size], positions % size] = key[rows]
            value_cache[blocks[positions // size], positions % size] = value[rows]
            seen = np.arange(past + count)
            keys, values = (cache[blocks[seen // size], seen % size] for cache in (key_cache, value_cache))
            hidden = seen[np.newaxis] > positions[:, np.newaxis]
            window = options.get("local_window_size", -1)
            if window > 0:
                hidden |= seen[np.newaxis] <= positions[:, np.newaxis] - window
            for head in range(heads):
                own = head // (heads // kv_heads)
                scores = query[rows][:, head] @ keys[:, own].T * np.float32(options["scale"])
                cap = options.get("softcap", 0.0)
                scores = np.tanh(scores / cap) * cap if cap else scores
                scores = np.where(hidden, -np.inf, scores)
                shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
                context[rows, head] = shares / shares.sum(axis=-1, keepdims=True) @ values[:, own]
        return context.reshape(len(context), -1).astype(np.float32), key_cache, value_cache


def _turned(value: Floats, cosines: Floats, sines: Floats, positions: npt.NDArray[Any]) -> Floats:
    reach = cosines.shape[1]
    cosine, sine = cosines[positions][:, np.newaxis], sines[positions][:, np.newaxis]
    first, second, rest = value[..., :reach], value[..., reach : 2 * reach], value[..., 2 * reach :]
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1)


class MatMulBlockQuantizedFp8Weight(OpRun):
    """Weights times the scale of their run of inputs."""

    op_domain = MICROSOFT

    def _run(
        self, rows: Any, codes: Any, scales: Any, a_scale: Any = None, bias: Any = None, block_size: int = 128
    ) -> Any:
        assert a_scale is None
        weight = codes.astype(np.float32) * np.repeat(scales, block_size, axis=1)[:, : codes.shape[1]]
        result = rows @ weight.T
        return (result if bias is None else result + bias,)


class SkipSimplifiedLayerNormalization(OpRun):
    """The norm of a sum, and the sum."""

    op_domain = MICROSOFT

    def _run(self, value: Any, skip: Any, gamma: Any, epsilon: float = 1e-5) -> Any:
        total = value + skip
        nothing = np.zeros(0, np.float32)  # nobody reads mean and variance
        return _rms(total, gamma, epsilon), nothing, nothing, total


class QuickGelu(OpRun):
    """x · sigmoid(alpha · x)."""

    op_domain = MICROSOFT

    def _run(self, value: Any, alpha: float = 1.702) -> Any:
        return (value / (1 + np.exp(-alpha * value)),)


class FastGelu(OpRun):
    """GELU's approximation by tanh."""

    op_domain = MICROSOFT

    def _run(self, value: Any) -> Any:
        return (0.5 * value * (1 + np.tanh(np.sqrt(2 / np.pi) * (value + 0.044715 * value**3))).astype(np.float32),)


class Gelu(OpRun):
    """GELU by the error function."""

    op_domain = MICROSOFT

    def _run(self, value: Any) -> Any:
        from math import erf

        return ((0.5 * value * (1 + np.vectorize(erf)(value / np.sqrt(2)))).astype(np.float32),)


OPERATORS = [PagedAttention, MatMulBlockQuantizedFp8Weight, SkipSimplifiedLayerNormalization, QuickGelu, FastGelu, Gelu]


class CudaReference:
    """Computes steps of a cuda graph; its weights keep float16's values, its arithmetic is float32's."""

    def __init__(self, folder: Path, graph: GraphDescription, blocks: int, block_tokens: int) -> None:
        self._evaluator = ReferenceEvaluator(widened(onnx.load(folder / GRAPH_FILE)), new_ops=OPERATORS)
        shape = (graph.layers, 2, blocks, block_tokens, graph.kv_heads, graph.head_dim)
        self._cache = np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)  # garbage: unread if right

    def step(self, rows: Sequence[StepRow]) -> Floats:
        """Logits as ``Runner.step`` gives them."""
        lengths = [len(row.token_ids) for row in rows]
        ends = np.cumsum(lengths)
        table = np.zeros((len(rows), max(len(row.blocks) for row in rows)), np.int32)
        for place, row in enumerate(rows):
            table[place, : len(row.blocks)] = row.blocks
        longest = max(row.past + length for row, length in zip(rows, lengths, strict=True))
        feeds = {
            names.INPUT_IDS: np.concatenate([np.array(row.token_ids, np.int64) for row in rows]),
            names.LOGIT_ROWS: np.concatenate(
                [np.arange(end - row.logits, end) for row, end in zip(rows, ends, strict=True)]
            ),
            names.ROW_STARTS: np.array([0, *ends], np.int32),
            names.PAST_LENGTHS: np.array([row.past for row in rows], np.int32),
            names.BLOCK_TABLES: table,
            names.ATTENTION_BOUNDS: np.array([max(lengths), longest, longest], np.int32),
        }
        for layer, (keys, values) in enumerate(self._cache):
            feeds[names.past_name(layer, "key")], feeds[names.past_name(layer, "value")] = keys, values
        (logits,) = self._evaluator.run([names.LOGITS], feeds)
        return np.asarray(logits, dtype=np.float32)


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with float16 weights as float32, and casts to float32."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        for place, name in enumerate(node.output):  # the evaluator would keep what has no name under the empty one
            node.output[place] = name or f"{node.name}.unread_{place}"
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
    return model
