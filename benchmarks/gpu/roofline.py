"""The least time that a decode step or a prefill can take on a chip, by the bytes it moves and the sums it does."""

from dataclasses import dataclass
from typing import Final

from benchmarks.peers.checkpoint import ModelShape

BYTES_PER_WEIGHT: Final = {"fp16": 2.0, "fp8": 1.0 + 4 / 128}
"""Of a layer's matrices; fp8 has a float32 scale for 128 weights. Embedding and LM head are float16 in both."""
_HALF: Final = 2


@dataclass(frozen=True, slots=True)
class Chip:
    """What a chip was measured to do: bytes a second read and written by a copy, float16 operations a second."""

    bytes_per_s: float
    operations_per_s: float


def layer_weights(shape: ModelShape) -> int:
    """Weights in all layers' matrices."""
    attention = shape.hidden * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    return shape.layers * (attention + 3 * shape.hidden * shape.intermediate)


def weight_bytes(shape: ModelShape, precision: str) -> float:
    """Bytes of weights that a step reads: every matrix, and the head, which is the embedding."""
    return layer_weights(shape) * BYTES_PER_WEIGHT[precision] + shape.hidden * shape.vocabulary * _HALF


def cache_bytes(shape: ModelShape, tokens: int) -> int:
    """Bytes of float16 keys and values of so many tokens."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens * _HALF


def decode_floor_s(shape: ModelShape, precision: str, batch: int, context: int, chip: Chip) -> float:
    """Seconds of a step of ``batch`` sequences of ``context`` tokens: weights once, each one's cache once."""
    moved = weight_bytes(shape, precision) + cache_bytes(shape, batch * context)
    return max(moved / chip.bytes_per_s, _operations(shape, batch, context) / chip.operations_per_s)


def prefill_floor_s(shape: ModelShape, precision: str, batch: int, tokens: int, chip: Chip) -> float:
    """Seconds to compute ``batch`` prompts of ``tokens`` tokens from their beginning."""
    moved = weight_bytes(shape, precision) + cache_bytes(shape, batch * tokens)
    head = 2 * batch * shape.hidden * shape.vocabulary
    operations = 2 * batch * tokens * layer_weights(shape) + head + _attention(shape, batch * tokens, (tokens + 1) / 2)
    return max(moved / chip.bytes_per_s, operations / chip.operations_per_s)


def _operations(shape: ModelShape, rows: int, context: int) -> float:
    weights = layer_weights(shape) + shape.hidden * shape.vocabulary
    return 2 * rows * weights + _attention(shape, rows, context)


def _attention(shape: ModelShape, rows: int, seen: float) -> float:
    """Scores and weighted sums of so many rows, each over ``seen`` tokens."""
    return 4 * rows * seen * shape.layers * shape.heads * shape.head_dim
