"""The protocol of a runner."""

from typing import Protocol

import numpy as np
import numpy.typing as npt


class SlotMover(Protocol):
    """A cache of slots as the engine sees it, wherever its memory is."""

    def move(self, source: int, destination: int, length: int) -> None:
        """Copy the first ``length`` tokens of one slot to another, which loses what it held."""
        ...


class Runner(Protocol):
    """Computes one step of one model over slots that lie side by side in its cache."""

    @property
    def cache(self) -> SlotMover:
        """Keys and values of all slots."""
        ...

    def prefill(self, slot: int, past_length: int, token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Compute a chunk of one request's prompt behind ``past_length`` tokens of its slot.

        ``token_ids`` is int64 [sequence]. Returns the last position's logits, float32 [1, vocabulary], which hold until
        the runner's next step.
        """
        ...

    def decode(self, past_lengths: npt.NDArray[np.int32], token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Compute one token for each of the slots 0 … batch - 1.

        ``past_lengths`` int32 [batch] counts each slot's tokens so far, ``token_ids`` is int64 [batch]. Returns logits,
        float32 [batch, vocabulary], which hold until the next step.
        """
        ...
