"""Runners whose cache is slots side by side, behind the protocol of blocks: a block is a whole slot."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fathom_server.engine.runner.base import CacheGeometry, StepRow
from fathom_server.engine.settings import EngineSettings

SPARE_SLOTS = 1
"""Slots of a runner's cache beyond ``max_batch``: through it, two slots change places with two copies."""


class SlotMover(Protocol):
    """A cache of slots, wherever its memory is."""

    def move(self, source: int, destination: int, length: int) -> None:
        """Copy the first ``length`` tokens of one slot to another, which loses what it held."""
        ...


class SlotRunner(Protocol):
    """Computes one sequence's chunk, or one token for each of the first slots of its cache.

    The cache has ``max_batch`` + ``SPARE_SLOTS`` slots.
    """

    @property
    def cache(self) -> SlotMover:
        """Keys and values of all slots."""
        ...

    def prefill(
        self, slot: int, past_length: int, token_ids: npt.NDArray[np.int64], logits: int = 1
    ) -> npt.NDArray[np.float32]:
        """Compute a chunk of one sequence behind ``past_length`` tokens of its slot.

        ``token_ids`` is int64 [sequence]. Returns the logits of the last ``logits`` positions, float32 [logits,
        vocabulary], which hold until the runner's next call.
        """
        ...

    def decode(self, past_lengths: npt.NDArray[np.int32], token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Compute one token for each of the slots 0 … batch - 1.

        ``past_lengths`` int32 [batch] counts each slot's tokens so far, ``token_ids`` is int64 [batch]. Returns logits,
        float32 [batch, vocabulary], which hold until the next call.
        """
        ...


class SlotRunnerAdapter:
    """A ``SlotRunner`` as a ``Runner``.

    Rows of several tokens are computed one by one, all rows of one token together. Those must lie side by side, so each
    block stands for a slot that changes: when rows of one token come that lie elsewhere, slots change places. The
    ``runner`` behind belongs to the adapter.
    """

    def __init__(self, runner: SlotRunner, settings: EngineSettings) -> None:
        limits = settings.limits
        self.runner = runner
        self._geometry = CacheGeometry(limits.max_batch, limits.max_context, shareable=False)
        self._vocabulary = settings.graph.vocabulary
        self._slot_of = list(range(limits.max_batch))  # by block
        self._block_at: list[int | None] = [*range(limits.max_batch), None]  # by slot
        self._spare = limits.max_batch
        self._tokens = [0] * limits.max_batch  # in the cache, by block
        self._logits = np.empty((limits.max_batch, self._vocabulary), dtype=np.float32)

    @property
    def geometry(self) -> CacheGeometry:
        """See ``Runner.geometry``."""
        return self._geometry

    def step(self, rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
        """See ``Runner.step``."""
        total = sum(row.logits for row in rows)
        if total > len(self._logits):
            self._logits = np.empty((total, self._vocabulary), dtype=np.float32)
        singles, places, end = [], [], 0
        for row in rows:
            begin, end = end, end + row.logits
            self._tokens[row.blocks[0]] = row.past
            if len(row.token_ids) == 1:
                singles.append(row)
                places.append(begin)
                continue
            token_ids = np.array(row.token_ids, dtype=np.int64)
            slot = self._slot_of[row.blocks[0]]
            self._logits[begin:end] = self.runner.prefill(slot, row.past, token_ids, row.logits)
            self._tokens[row.blocks[0]] = row.past + len(token_ids)
        if singles:
            self._decode(singles, places)
        return self._logits[:total]

    def close(self) -> None:
        """Give back what the runner holds beyond this process's memory, if anything."""
        close = getattr(self.runner, "close", None)
        if close is not None:
            close()

    def _decode(self, rows: list[StepRow], places: list[int]) -> None:
        """One token of each row, side by side; logits to their places."""
        self._bring_to_front([row.blocks[0] for row in rows])
        past_lengths, token_ids = np.empty(len(rows), dtype=np.int32), np.empty(len(rows), dtype=np.int64)
        for row in rows:
            slot = self._slot_of[row.blocks[0]]
            past_lengths[slot], token_ids[slot] = row.past, row.token_ids[0]
        logits = self.runner.decode(past_lengths, token_ids)
        for row, place in zip(rows, places, strict=True):
            if row.logits:
                self._logits[place] = logits[self._slot_of[row.blocks[0]]]
            self._tokens[row.blocks[0]] = row.past + 1

    def _bring_to_front(self, blocks: list[int]) -> None:
        """Let these blocks hold the slots 0 … n - 1, in any order; the others keep what they hold elsewhere."""
        chosen = set(blocks)
        outside = [block for block in blocks if self._slot_of[block] >= len(blocks)]
        for slot in range(len(blocks)):
            holder = self._block_at[slot]
            if holder in chosen:
                continue
            if holder is not None:
                self._move(holder, self._spare)
            self._move(outside.pop(), slot)

    def _move(self, block: int, slot: int) -> None:
        """Bring a block to the spare slot, which is ``slot``; the one that it leaves is the spare one then."""
        left = self._slot_of[block]
        if self._tokens[block]:
            self.runner.cache.move(left, slot, self._tokens[block])
        self._slot_of[block], self._block_at[slot] = slot, block
        self._block_at[left], self._spare = None, left
