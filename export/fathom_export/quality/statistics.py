"""How close two models' outputs are: figures over pairs of arrays, in numpy alone."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]

_ROWS_AT_ONCE: Final = 64
"""Logits are widened to float64 so many rows at a time, whatever the vocabulary."""


@dataclass(frozen=True, slots=True)
class LogitAgreement:
    """How close a model's next-token distributions are to a reference's, over ``positions`` of held-out text.

    ``mean_kl`` and ``max_kl`` are the divergence KL(reference ‖ model) in nats; ``perplexity`` is that of the text's
    own next tokens under the model; ``top1`` is the share of positions with the same most probable token; cosines are
    of the logits.
    """

    positions: int
    mean_kl: float
    max_kl: float
    perplexity: float
    reference_perplexity: float
    top1: float
    mean_cosine: float
    min_cosine: float


class LogitStatistics:
    """Gathers logits of a reference and of a model, passage by passage."""

    def __init__(self) -> None:
        self._columns: list[Doubles] = []

    def add(self, reference: Floats, logits: Floats, targets: npt.NDArray[np.int64]) -> None:
        """Take both models' logits, [positions, vocabulary], and the ids that stand next in the text, [positions]."""
        for begin in range(0, len(targets), _ROWS_AT_ONCE):
            rows = slice(begin, begin + _ROWS_AT_ONCE)
            one = np.asarray(reference[rows], dtype=np.float64)
            other = np.asarray(logits[rows], dtype=np.float64)
            wanted = targets[rows]
            log_p, log_q = log_softmax(one), log_softmax(other)
            picked = np.arange(len(wanted))
            self._columns.append(
                np.stack(
                    [
                        # rounding can make the divergence of equal distributions a little less than 0
                        np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=-1), 0.0),
                        cosines(one, other),
                        (one.argmax(axis=-1) == other.argmax(axis=-1)).astype(np.float64),
                        -log_p[picked, wanted],
                        -log_q[picked, wanted],
                    ]
                )
            )

    @property
    def divergences(self) -> Doubles:
        """KL(reference ‖ model) at every position, in nats."""
        divergences: Doubles = np.concatenate(self._columns, axis=1)[0]
        return divergences

    def agreement(self) -> LogitAgreement:
        """The figures over everything that was added; there must be something."""
        kl, cosine, same, reference_nll, nll = np.concatenate(self._columns, axis=1)
        return LogitAgreement(
            positions=len(kl),
            mean_kl=float(kl.mean()),
            max_kl=float(kl.max()),
            perplexity=float(np.exp(nll.mean())),
            reference_perplexity=float(np.exp(reference_nll.mean())),
            top1=float(same.mean()),
            mean_cosine=float(cosine.mean()),
            min_cosine=float(cosine.min()),
        )


def log_softmax(logits: Doubles) -> Doubles:
    """Natural logarithms of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Doubles = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def cosines(one: Floats, other: Floats) -> Doubles:
    """Cosine of each row of one array to its counterpart, [rows]; two rows of zeros have 1, one alone has 0."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    a_norm, b_norm = np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)
    products = a_norm * b_norm
    both_zero = (a_norm == 0) & (b_norm == 0)
    result: Doubles = np.divide((a * b).sum(axis=-1), products, out=both_zero.astype(np.float64), where=products > 0)
    return result


def relative_error(reference: Floats, values: Floats) -> float:
    """‖values − reference‖₂ ÷ ‖reference‖₂ over whole arrays; infinite if only the reference is zero."""
    difference = np.linalg.norm(np.asarray(values, np.float64).ravel() - np.asarray(reference, np.float64).ravel())
    norm = np.linalg.norm(np.asarray(reference, np.float64).ravel())
    if norm == 0:
        return 0.0 if difference == 0 else float("inf")
    return float(difference / norm)


def spearman(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation of two lists [n]: Pearson's of their ranks, ties sharing the mean rank.

    Not a number where either list is constant or has fewer than two values.
    """
    a, b = average_ranks(one), average_ranks(other)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 0 else float("nan")


def average_ranks(values: Floats) -> Doubles:
    """Ranks from 1 on, the smallest first; equal values share the mean of the ranks that they take up."""
    _, inverse, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: Doubles = (last - (counts - 1) / 2)[inverse]
    return ranks
