"""What the engine asks of a runner: flat steps over a cache of blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class CacheGeometry:
    """A cache of ``blocks`` blocks of ``block_tokens`` tokens each; a block is named by its index.

    ``shareable``: several sequences may read one block. Where it is false, a sequence has exactly one block.
    """

    blocks: int
    block_tokens: int
    shareable: bool


@dataclass(frozen=True, slots=True)
class StepRow:
    """One sequence's part of a step.

    ``blocks`` are where its keys and values lie, in order, enough for ``past`` tokens and the new ones. ``past``
    counts the tokens that are in the cache already. ``token_ids`` are the new tokens, computed now at the positions
    ``past`` …; ``logits`` says of how many of the last of them logits are wanted, 0 … n. ``lane`` is whose weights they
    are for, where a runner has several.
    """

    blocks: Sequence[int]
    past: int
    token_ids: Sequence[int]
    logits: int
    lane: int = 0


class Runner(Protocol):
    """Computes steps of one model over a cache of its own.

    A row's logits depend on that row's tokens alone: neither on the other rows of the step, nor on how its prompt was
    cut into steps, nor on which blocks it was given.
    """

    @property
    def geometry(self) -> CacheGeometry:
        """The form of the cache."""
        ...

    def step(self, rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
        """Compute the new tokens of some sequences, each at most once, and keep their keys and values.

        Returns logits, float32 [sum of the rows' ``logits``, vocabulary], in the rows' order and within a row in the
        tokens'; they hold until the next step.
        """
        ...


@runtime_checkable
class LanedRunner(Runner, Protocol):
    """A runner that has the weights in several precisions (``engine/lanes.py``)."""

    @property
    def lanes(self) -> tuple[str, ...]:
        """The precisions, in the order of ``StepRow.lane``."""
        ...


@runtime_checkable
class ReducingRunner(Runner, Protocol):
    """A runner on a device far away, from which a few logits of each row come faster than all of them."""

    @property
    def reduced_tokens(self) -> int:
        """How many of a row's largest logits ``step_reduced`` gives."""
        ...

    def step_reduced(self, rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
        """As ``step``, but minus infinity stands for all of a row's logits but the largest ``reduced_tokens``.

        A row in which any logit is not a number has one that is not.
        """
        ...
