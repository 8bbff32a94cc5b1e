"""A logistic regression: what export's calibration learns and the cascade asks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from fathom_server.errors import SettingsError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TOKEN_FEATURES: Final = (
    "mean_logprob",
    "min_logprob",
    "mean_entropy",
    "max_entropy",
    "log_output_tokens",
    "log_input_tokens",
)
"""Features of a small answer, in this order; an embedding follows them where there is one."""

_ROUNDS: Final = 50
_SMALL_STEP: Final = 1e-8


@dataclass(frozen=True, slots=True)
class Logistic:
    """The probability of something, by features: 1 / (1 + exp(-(bias + weights · (features - mean) / scale))).

    ``weights``, ``mean`` and ``scale`` have a number a feature: those of ``TOKEN_FEATURES`` where ``tokens``, then the
    dimensions of an embedding, if any.
    """

    bias: float
    weights: Sequence[float]
    mean: Sequence[float]
    scale: Sequence[float]
    tokens: bool = False

    def __post_init__(self) -> None:
        if not len(self.weights) == len(self.mean) == len(self.scale):
            raise SettingsError(
                f"a logistic regression has {len(self.weights)} weights, {len(self.mean)} means and "
                f"{len(self.scale)} scales; calibrate anew"
            )
        if not all(map(math.isfinite, (self.bias, *self.weights, *self.mean, *self.scale))) or 0 in self.scale:
            raise SettingsError("a logistic regression has weights that are no numbers or a scale of 0; calibrate anew")

    @property
    def uses_embedding(self) -> bool:
        """Whether an embedding is among the features."""
        return len(self.weights) > len(TOKEN_FEATURES) * self.tokens

    def probability(self, features: "npt.ArrayLike") -> float:
        """Of one vector of features; raises SettingsError where their number is another."""
        import numpy as np  # here, since the commands' help reads settings, and is to be quick

        given = np.asarray(features, dtype=np.float64)
        if given.shape != (len(self.weights),):
            raise SettingsError(
                f"{given.size} features were given to a regression of {len(self.weights)}; the encoder is another than "
                "at the calibration: calibrate anew"
            )
        logit = self.bias + float(np.dot(self.weights, (given - self.mean) / self.scale))
        return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, logit))))

    @classmethod
    def fit(
        cls, features: "npt.NDArray[np.float64]", labels: "npt.NDArray[np.bool_]", *, tokens: bool, penalty: float
    ) -> Self:
        """Fit [rows, features] to labels [rows] with an L2 penalty on the weights of standardised features.

        By Newton's method (iteratively reweighted least squares; Hastie et al., The Elements of Statistical Learning,
        4.4.1). One class alone gives its smoothed share for whatever is asked.
        """
        import numpy as np

        mean, scale = features.mean(axis=0), features.std(axis=0)
        scale[scale < _SMALL_STEP] = 1.0
        columns = np.hstack([(features - mean) / scale, np.ones((len(features), 1))])
        weights = np.zeros(columns.shape[1])
        share = (labels.sum() + 1) / (len(labels) + 2)
        weights[-1] = math.log(share / (1 - share))
        ridge: npt.NDArray[Any] = np.full(columns.shape[1], penalty)
        ridge[-1] = 0.0
        for _ in range(_ROUNDS if 0 < labels.sum() < len(labels) else 0):
            found = 1.0 / (1.0 + np.exp(-np.clip(columns @ weights, -700, 700)))
            gradient = columns.T @ (found - labels) + ridge * weights
            curvature = (columns.T * (found * (1 - found))) @ columns + np.diag(ridge + _SMALL_STEP)
            step = np.linalg.solve(curvature, gradient)
            weights -= step
            if np.abs(step).max() < _SMALL_STEP:
                break
        return cls(float(weights[-1]), weights[:-1].tolist(), mean.tolist(), scale.tolist(), tokens)
