"""Weights in blocks of 4 or 8 bits, as ONNX Runtime's MatMulNBits reads them.

A block is a run of ``block_size`` weights of one output, along the inputs; the last one of an output is filled with
zeros. A weight stands for (code − zero point) × scale of its block. Two 4-bit codes share a byte, the first one in the
low half (``MatMulNBits`` in ONNX Runtime's ContribOperators.md).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fathom_export.errors import MissingExtraError

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_HQQ_ROWS_AT_ONCE: Final = 1 << 22
"""Weights that the solver is given at once: it keeps about ten float32 copies of them."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix [outputs, inputs] in blocks.

    ``codes`` is uint8 [outputs, blocks, block_size], not yet packed; ``scales`` float32 [outputs, blocks];
    ``zero_points`` uint8 [outputs, blocks], or None where all are half of the range.
    """

    codes: Codes
    scales: Floats
    zero_points: Codes | None


def block_count(inputs: int, block_size: int) -> int:
    """Blocks of one output."""
    return -(-inputs // block_size)


def round_to_nearest(matrix: Floats, block_size: int, bits: int) -> Blocks:
    """Blocks with a symmetric range: the weight of largest magnitude takes the code 0, whatever its sign.

    So all codes are used, where a scale of largest magnitude / (2^(bits−1) − 1) would leave one out. A weight is off by
    at most half of its block's scale, or a whole scale at the end of the range that has one code less.
    """
    blocks = _split(matrix, block_size)
    half = 1 << (bits - 1)
    places = np.abs(blocks).argmax(axis=2)[..., np.newaxis]
    extremes = np.take_along_axis(blocks, places, axis=2)
    scales = extremes / np.float32(-half)
    steps = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales != 0)
    codes = np.rint(steps).clip(-half, half - 1) + half
    return Blocks(codes.astype(np.uint8), scales[..., 0].astype(np.float32), None)


def half_quadratic(matrix: Floats, block_size: int, bits: int = 4) -> Blocks:
    """Blocks whose zero points lower the error of most weights at the cost of a few outliers.

    Half-quadratic quantisation (HQQ, Badri and Shaji 2023), solved by onnxruntime's own quantiser. Its zero points are
    rounded to whole codes afterwards, since ONNX Runtime's kernels for int8 activations take no others, and each
    block's scale is fitted to the codes by least squares. Raises MissingExtraError without torch.
    """
    require_hqq()
    rows = max(1, _HQQ_ROWS_AT_ONCE // matrix.shape[1])
    pieces = [_half_quadratic(matrix[first : first + rows], block_size, bits) for first in range(0, len(matrix), rows)]
    codes, scales, zero_points = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return Blocks(codes, scales, zero_points)


def require_hqq() -> None:
    """Raise MissingExtraError unless torch, which the solver is written in, is installed."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise MissingExtraError(
            "int4_method hqq is solved by torch, which is not installed; run: pip install 'fathom-export[torch]', or "
            "choose int4_method rtn"
        )


def dequantised(blocks: Blocks, inputs: int, bits: int) -> Floats:
    """What the blocks stand for, float32 [outputs, inputs]."""
    zero_points: Floats | float = float(1 << (bits - 1))
    if blocks.zero_points is not None:
        zero_points = blocks.zero_points[..., np.newaxis].astype(np.float32)
    values = (blocks.codes.astype(np.float32) - zero_points) * blocks.scales[..., np.newaxis]
    return np.ascontiguousarray(values.reshape(len(values), -1)[:, :inputs], dtype=np.float32)


def packed(codes: Codes) -> Codes:
    """4-bit codes, uint8 [..., n], two a byte: uint8 [..., ceil(n / 2)]; an odd last one has an empty high half."""
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
    return np.ascontiguousarray(codes[..., 0::2] | codes[..., 1::2] << 4)


def _split(matrix: Floats, block_size: int) -> Floats:
    """[outputs, inputs] → [outputs, blocks, block_size], filled up with zeros."""
    outputs, inputs = matrix.shape
    blocks = block_count(inputs, block_size)
    missing = blocks * block_size - inputs
    if missing:
        matrix = np.pad(matrix, ((0, 0), (0, missing)))
    return matrix.reshape(outputs, blocks, block_size)


def _half_quadratic(matrix: Floats, block_size: int, bits: int) -> tuple[Codes, Floats, Codes]:
    import torch
    from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig, HQQWeightOnlyQuantizer

    config = HQQWeightOnlyQuantConfig(block_size=block_size, bits=bits)
    solver = HQQWeightOnlyQuantizer(config)
    with torch.inference_mode():
        _, scales, zero_points = solver.quantize_internal(torch.from_numpy(matrix), bits=bits, group_size=block_size)
    highest = (1 << bits) - 1
    zeros = np.rint(zero_points.numpy()).clip(0, highest)[..., np.newaxis].astype(np.float32)
    blocks, steps = _split(matrix, block_size), scales.numpy()[..., np.newaxis].astype(np.float32)
    codes = np.rint(blocks / steps + zeros).clip(0, highest)
    offsets = codes - zeros
    weights = np.square(offsets).sum(axis=2)
    fitted = np.divide((offsets * blocks).sum(axis=2), weights, out=steps[..., 0].copy(), where=weights > 0)
    return codes.astype(np.uint8), fitted.astype(np.float32), zeros[..., 0].astype(np.uint8)
