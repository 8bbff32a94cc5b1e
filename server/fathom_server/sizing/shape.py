"""What of a decoder decides its memory and its speed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

Precision = Literal["fp32", "fp16", "int8", "int4", "fp8"]

Runner = Literal["native", "stock", "cuda", "plan"]
"""Whose allocations they are: ``engine/runner/native.py``, ``onnx.py``, ``cuda_onnx.py``, ``tensorrt.py``."""


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product of a layer, [inputs, outputs]; ``count`` of them share an operator."""

    name: str
    inputs: int
    outputs: int
    count: int = 1

    @property
    def weights(self) -> int:
        """Weights of all its matrices."""
        return self.inputs * self.outputs * self.count


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes of a decoder with grouped-query attention and a gated MLP.

    ``vector_values`` counts the weights of norms and biases. ``windows`` are the tokens that a query sees, a layer
    each, where any layer has a window; 0 stands for all.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied_embeddings: bool = True
    vector_values: int = 0
    windows: tuple[int, ...] = ()

    @property
    def layer_products(self) -> tuple[Product, ...]:
        """The products of one layer, as the graphs have them: query, key and value are one."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            Product("qkv", self.hidden, query + 2 * key),
            Product("o", query, self.hidden),
            Product("gate_and_up", self.hidden, self.intermediate, count=2),
            Product("down", self.intermediate, self.hidden),
        )

    @property
    def lm_head(self) -> Product:
        """The projection to logits."""
        return Product("lm_head", self.hidden, self.vocabulary)

    @property
    def layer_weights(self) -> int:
        """Weights of the matrices of all layers."""
        return self.layers * sum(product.weights for product in self.layer_products)

    @property
    def parameters(self) -> int:
        """All weights; an embedding that is the LM head, too, counts once."""
        embeddings = self.lm_head.weights * (1 if self.tied_embeddings else 2)
        return self.layer_weights + embeddings + self.vector_values

    def products(self) -> Iterator[Product]:
        """Every product of a step in its order."""
        for _ in range(self.layers):
            yield from self.layer_products
        yield self.lm_head

    def shard(self, ways: int) -> Self | None:
        """One GPU's part under tensor parallelism; None where heads or the MLP do not divide into so many.

        Key and value heads that are fewer than GPUs are kept more than once.
        """
        divides = self.kv_heads % ways == 0 or ways % self.kv_heads == 0
        if self.heads % ways or self.intermediate % ways or not divides:
            return None
        return replace(
            self,
            heads=self.heads // ways,
            kv_heads=max(1, self.kv_heads // ways),
            intermediate=self.intermediate // ways,
            vocabulary=-(-self.vocabulary // ways),
        )

    def seen_tokens(self, position: float) -> float:
        """How many tokens a query at this position sees, the mean of all layers."""
        if not self.windows:
            return position
        return sum(min(position, window or position) for window in self.windows) / len(self.windows)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """What of an export only its writer knows: the decoder's shape, and how int4's blocks are made."""

    shape: DecoderShape
    block_size: int = 32
    zero_points: bool = False

    @classmethod
    def from_json(cls, raw: Mapping[str, Any] | None) -> Self | None:
        """Undo ``dataclasses.asdict`` after a way through JSON; None of None. Raises TypeError or KeyError."""
        if raw is None:
            return None
        shape = DecoderShape(**{**raw["shape"], "windows": tuple(raw["shape"]["windows"])})
        return cls(shape, raw["block_size"], raw["zero_points"])
