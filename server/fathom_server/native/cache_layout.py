"""How ``fathom.Attention`` lays keys and values out in memory.

The cache is uint8 [layers, blocks, block_bytes]. A block holds ``block_tokens`` tokens of one sequence in one layer:

    block     kv_heads x (block_tokens / 32) granules: one head after another, so that a thread reads one piece
    granule   32 tokens of one kv head, aligned to positions that are multiples of 32:

    int8      keys    uint8   [head_dim / 4, 32 tokens, 4 dims]   code + 128
              values  int8    [32 / 4, head_dim, 4 tokens]        code
              key scales      float32 [32], value scales float32 [32]: a number is code * scale
    float16   keys    float16 [head_dim, 32 tokens];  values  float16 [32 tokens, head_dim]
    float32   the same in float32

Keys are stored after norm and rotation. Int8 codes are -127 ... 127 with one scale a token and kv head, max|x| / 127,
of keys and values that Hadamard's matrix (unscaled, in runs of the largest power of two that divides head_dim) has
turned: a trained model's few large dimensions then cost the others no precision (QuaRot, arXiv 2404.00456).
The order is that of the kernels' loads: one of 64 bytes has 4 dimensions of 16 keys, or 4 tokens of 16 dimensions of
values, ready for an instruction that sums four products of bytes.
"""

from typing import Final

GRANULE_TOKENS: Final = 32
LARGEST_HEAD_DIM: Final = 512
KV_DTYPES: Final = ("int8", "float16", "float32")

_ITEM_BYTES: Final = {"int8": 1, "float16": 2, "float32": 4}


def block_bytes(kv_heads: int, head_dim: int, block_tokens: int = 32, kv_dtype: str = "int8") -> int:
    """Bytes of one block of one layer.

    Raises:
        ValueError: a size that the operator refuses, or an unknown ``kv_dtype``.
    """
    if kv_heads < 1:
        raise ValueError(f"kv_heads is {kv_heads}; it must be 1 or more")
    if head_dim < 1 or head_dim % 16 or head_dim > LARGEST_HEAD_DIM:
        raise ValueError(f"head_dim is {head_dim}; it must be a multiple of 16 up to {LARGEST_HEAD_DIM}")
    if block_tokens < 1 or block_tokens % GRANULE_TOKENS:
        raise ValueError(f"block_tokens is {block_tokens}; it must be a multiple of {GRANULE_TOKENS}")
    if kv_dtype not in _ITEM_BYTES:
        raise ValueError(f"kv_dtype is {kv_dtype!r}; it must be one of {', '.join(KV_DTYPES)}")
    scales = 2 * 4 if kv_dtype == "int8" else 0
    return kv_heads * block_tokens * (2 * head_dim * _ITEM_BYTES[kv_dtype] + scales)


def bytes_per_token(layers: int, kv_heads: int, head_dim: int, kv_dtype: str = "int8") -> int:
    """Bytes that one token takes in all layers."""
    return layers * block_bytes(kv_heads, head_dim, GRANULE_TOKENS, kv_dtype) // GRANULE_TOKENS
