"""How an export keeps a decoder's weights and its cache, in bytes."""

from dataclasses import dataclass
from typing import Final

from fathom_server.native.cache_layout import bytes_per_token as native_bytes_per_token
from fathom_server.sizing.constants import PAGE_BYTES
from fathom_server.sizing.shape import DecoderShape, Precision, Product, Runner

CUDA_BLOCK_TOKENS: Final = 256
"""Tokens of a block of the cuda graph's cache (``export/fathom_export/decoder/cuda_dialect.py``)."""
NATIVE_BLOCK_TOKENS: Final = 32
"""Tokens of a block of the native graph's cache."""

_FLOAT32: Final = 4
_HALF: Final = 2
_PANEL_COLUMNS: Final = 32
_ZERO_POINT_BYTES: Final = 64
_PACKED_ALIGNMENT: Final = 64
"""Of ``native/src/linear_kernels.h`` and ``linear_pack.cpp``."""
_FP32_PANEL_COLUMNS: Final = 16
"""ONNX Runtime packs a float32 matrix into panels of so many columns (``MlasGemmPackBSize``)."""
_FP8_BLOCK_INPUTS: Final = 128
"""Weights of the cuda graph's fp8 that share a float32 scale (``export/fathom_export/quantise/fp8_blocks.py``)."""


@dataclass(frozen=True, slots=True)
class EngineForm:
    """What of an export decides its bytes.

    ``block_size`` and ``zero_points`` are int4's; ``kv_dtype`` is the type of the native graph's cache, the others keep
    float32 (stock) or float16.
    """

    precision: Precision
    runner: Runner
    block_size: int = 32
    zero_points: bool = False
    kv_dtype: str = "int8"

    @property
    def on_gpu(self) -> bool:
        """Whether weights and cache are in a GPU's memory."""
        return self.runner in ("cuda", "plan")

    @property
    def has_slots(self) -> bool:
        """Whether a request has a slot of the cache for itself, and not blocks."""
        return self.runner in ("stock", "plan")

    def block_tokens(self, shape: DecoderShape) -> int:
        """Tokens of a block of the cache; in a slot's main memory, those of a page of one head's."""
        if self.runner == "stock":
            return max(1, PAGE_BYTES // (shape.head_dim * _FLOAT32))
        return {"native": NATIVE_BLOCK_TOKENS, "cuda": CUDA_BLOCK_TOKENS}.get(self.runner, 1)

    @property
    def cache_type(self) -> str:
        """What keys and values are kept in."""
        return {"native": self.kv_dtype, "stock": "float32"}.get(self.runner, "float16")

    def cache_bytes_per_token(self, shape: DecoderShape) -> int:
        """Bytes of one token's keys and values in all layers."""
        if self.runner == "native":
            return native_bytes_per_token(shape.layers, shape.kv_heads, shape.head_dim, self.kv_dtype)
        item = _FLOAT32 if self.runner == "stock" else _HALF
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * item

    def product_bytes(self, product: Product) -> int:
        """Bytes of a layer's matrix as it is computed with."""
        each = _matrix_bytes(product.inputs, product.outputs, self, is_head=False)
        return each * product.count

    def head_bytes(self, shape: DecoderShape) -> int:
        """Bytes of the LM head as it is computed with."""
        return _matrix_bytes(shape.hidden, shape.vocabulary, self, is_head=True)

    def embedding_bytes(self, shape: DecoderShape) -> int:
        """Bytes of the embedding beside the LM head; 0 where both are one tensor."""
        values = shape.hidden * shape.vocabulary
        if self.on_gpu:
            return 0 if shape.tied_embeddings else values * _HALF
        if self.precision == "int8":
            return values + shape.vocabulary * _FLOAT32
        if self.precision == "int4":
            blocks = -(-shape.hidden // self.block_size)
            return shape.vocabulary * blocks * (self.block_size + _FLOAT32)
        return values * _FLOAT32

    def weight_bytes(self, shape: DecoderShape) -> int:
        """Bytes of all weights as they are computed with, norms and biases among them."""
        layers = shape.layers * sum(self.product_bytes(product) for product in shape.layer_products)
        vectors = shape.vector_values * (_HALF if self.on_gpu else _FLOAT32)
        return layers + self.head_bytes(shape) + self.embedding_bytes(shape) + vectors


def _matrix_bytes(inputs: int, outputs: int, form: EngineForm, *, is_head: bool) -> int:
    """A matrix [inputs, outputs]; the head has 8 bits where the layers have 4, and float16 where they have fp8."""
    if form.precision == "fp16" or (form.precision == "fp8" and is_head):
        return inputs * outputs * _HALF
    if form.precision == "fp8":
        scales = -(-inputs // _FP8_BLOCK_INPUTS) if form.runner == "cuda" else 1
        return outputs * (inputs + scales * _FLOAT32)
    if form.precision == "fp32":
        return inputs * _rounded(outputs, _FP32_PANEL_COLUMNS) * _FLOAT32
    if form.precision == "int8":
        block, blocks, bits = _rounded(inputs, 4), 1, 8
    else:
        block, blocks, bits = form.block_size, -(-inputs // form.block_size), 8 if is_head else 4
    zero_points = _ZERO_POINT_BYTES if form.zero_points and not is_head else 0
    block_bytes = _PANEL_COLUMNS * _FLOAT32 + zero_points + block * _PANEL_COLUMNS * bits // 8
    return _rounded(-(-outputs // _PANEL_COLUMNS) * blocks * block_bytes, _PACKED_ALIGNMENT)


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
