"""What is learned from a survey: when only the large model is right, by the small answer's tokens and by the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fathom_export.cascade.survey import Observation
from fathom_server.cascade.logistic import Logistic

FOLDS: Final = 5
PENALTIES: Final = (1.0, 10.0, 100.0, 1000.0)
LEAST_ROWS: Final = 50
"""Fewer questions teach nothing that holds for others."""

_SEED: Final = 7


@dataclass(frozen=True, slots=True)
class Learned:
    """A regression fitted to all questions, and the probabilities [rows] of such as were fitted without each."""

    model: Logistic
    probabilities: npt.NDArray[np.float64]


def folds_of(rows: int) -> npt.NDArray[np.int64]:
    """A fold a row, the same for the same number of rows."""
    return np.random.default_rng(_SEED).permutation(np.arange(rows) % FOLDS)


def learn(observations: Sequence[Observation], *, tokens: bool, embeddings: bool) -> Learned:
    """Fit the probability that the large model alone is right; the penalty is the one of the least loss elsewhere."""
    features = np.array(
        [(each.features if tokens else ()) + (each.embedding if embeddings else ()) for each in observations]
    )
    gains = np.array([each.large_right and not each.small_right for each in observations])
    folds = folds_of(len(observations))
    best: tuple[float, float, npt.NDArray[np.float64]] | None = None
    for penalty in PENALTIES:
        probabilities = np.empty(len(observations))
        for fold in range(FOLDS):
            others = folds != fold
            model = Logistic.fit(features[others], gains[others], tokens=tokens, penalty=penalty)
            for row in np.flatnonzero(~others):
                probabilities[row] = model.probability(features[row])
        loss = _loss(probabilities, gains)
        if best is None or loss < best[0]:
            best = (loss, penalty, probabilities)
    if best is None:
        raise ValueError("there are no penalties")
    return Learned(Logistic.fit(features, gains, tokens=tokens, penalty=best[1]), best[2])


def _loss(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> float:
    """Mean negative log-likelihood."""
    given = np.clip(np.where(labels, probabilities, 1 - probabilities), 1e-12, 1)
    return float(-np.log(given).mean())
