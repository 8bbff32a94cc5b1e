"""The inputs of a plan's step: their shapes, and how they lie in the one piece that is copied to the GPU."""

from typing import Final

import numpy as np
import numpy.typing as npt

from fathom_server.engine import settings as names
from fathom_server.engine.runner.cuda import ALIGNMENT_BYTES

PLAN_INPUTS: Final = (names.INPUT_IDS, names.LOGIT_POSITIONS, names.POSITION_IDS, names.WRITE_INDICES)
_INPUT_BYTES: Final = 8  # all four are int64


def most_input_bytes(tokens: int) -> int:
    """Bytes that hold the inputs of any step of so many tokens at most."""
    return len(PLAN_INPUTS) * (tokens * _INPUT_BYTES + ALIGNMENT_BYTES)


def input_shapes(batch: int, sequence: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a step over ``batch`` rows of ``sequence`` new tokens each."""
    return {
        names.INPUT_IDS: (batch, sequence),
        names.LOGIT_POSITIONS: (batch, 1),
        names.POSITION_IDS: (batch, sequence),
        names.WRITE_INDICES: (batch,),
    }


def input_offsets(batch: int, sequence: int) -> dict[str, int]:
    """Where each input of a step begins in the one piece that is copied to the GPU, in bytes."""
    offsets, end = {}, 0
    for name, shape in input_shapes(batch, sequence).items():
        offsets[name] = end
        size = int(np.prod(shape)) * _INPUT_BYTES
        end += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return offsets


def write_inputs(
    into: npt.NDArray[np.uint8], past_lengths: npt.NDArray[np.int64], input_ids: npt.NDArray[np.int64]
) -> int:
    """Lay the four inputs of a step side by side in the host's memory; returns how many bytes they take.

    ``into`` is uint8 of at least ``most_input_bytes``; ``past_lengths`` int64 [batch] counts the tokens that the cache
    holds of each row, ``input_ids`` are int64 [batch, sequence].
    """
    batch, sequence = input_ids.shape
    values = {
        names.INPUT_IDS: input_ids,
        names.LOGIT_POSITIONS: np.full((batch, 1), sequence - 1, dtype=np.int64),
        names.POSITION_IDS: past_lengths[:, np.newaxis] + np.arange(sequence, dtype=np.int64),
        names.WRITE_INDICES: past_lengths,
    }
    end = 0
    for name, offset in input_offsets(batch, sequence).items():
        value = np.ascontiguousarray(values[name])
        end = offset + value.nbytes
        into[offset:end] = value.reshape(-1).view(np.uint8)
    return end
