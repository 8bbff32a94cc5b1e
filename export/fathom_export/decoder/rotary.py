"""Tables of the rotary position embedding."""

import numpy as np
import numpy.typing as npt

from fathom_export.decoder.rope import Rope


def rotary_tables(rope: Rope, positions: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines and sines of every position's angles, float32 [positions, rope.dimensions / 2] each.

    Without scaling, the angle of pair i at position p is p · theta^(−2i / dimensions) (RoFormer, arXiv 2104.09864);
    all is computed in float32 as transformers does.
    """
    exponents = np.arange(0, rope.dimensions, 2, dtype=np.float32) / np.float32(rope.dimensions)
    periods = np.float32(rope.theta) ** exponents
    frequencies = np.float32(1.0) / periods if rope.scaling is None else rope.scaling.frequencies(periods, rope.theta)
    angles = np.arange(positions, dtype=np.float32)[:, np.newaxis] * frequencies.astype(np.float32)
    factor = np.float32(rope.attention_factor)
    return np.cos(angles) * factor, np.sin(angles) * factor
