"""Tables of the rotary position embedding."""

import numpy as np
import numpy.typing as npt


def rotary_tables(
    head_dim: int, theta: float, positions: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines and sines of every position's angles, float32 [positions, head_dim / 2] each.

    The angle of pair i at position p is p · theta^(−2i / head_dim) (RoFormer, arXiv 2104.09864), computed in float32
    as transformers does.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1.0) / np.float32(theta) ** exponents
    angles = np.arange(positions, dtype=np.float32)[:, np.newaxis] * frequencies
    return np.cos(angles), np.sin(angles)
