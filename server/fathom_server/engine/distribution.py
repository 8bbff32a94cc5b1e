"""A row of logits as a distribution to draw from, without sorting the vocabulary where a part of it will do.

Temperature, top-k, top-p, min-p and typical-p apply in this order, each to what the one before left (transformers'
order). A row is computed by itself with operations in a fixed order, so that its draw never depends on its neighbours.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fathom_server.engine.sampling_parameters import SamplingParameters

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Keys = npt.NDArray[np.floating[Any]]
Tokens = npt.NDArray[np.int64]

_FIRST_CANDIDATES: Final = 256
_FEW: Final = 2048
_GROUPINGS: Final = (64, 8)


def draw(scores: Floats, sampling: SamplingParameters, uniform: float) -> int:
    """The token at ``uniform`` in [0, 1) of the distribution that ``sampling`` makes of ``scores``.

    ``scores`` is float32 [vocabulary], processed, with a finite maximum; ``sampling.temperature`` is above 0.
    """
    if _keeps_every_token(sampling, scores.size):
        return _draw_from_all(_weights(scores, sampling.temperature), uniform)
    tokens, probabilities = kept_distribution(scores, sampling)
    return int(tokens[_at(probabilities, uniform)])


def kept_distribution(scores: Floats, sampling: SamplingParameters) -> tuple[Tokens, Doubles]:
    """Tokens that may be drawn, int64 [kept], and their probabilities, float64 [kept], which add up to 1.

    Sources of the rules: top-k (Fan et al. 2018), top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024), typical-p
    (Meister et al. 2022), as transformers' warpers have them: scores equal to the k-th stay; a token stays while those
    before it fall short of p.
    """
    top_p = sampling.top_p
    if 0 < sampling.top_k < scores.size:
        tokens = _top_k(scores, sampling.top_k)
    elif top_p < 1.0:
        weights = _weights(scores, sampling.temperature)
        tokens, top_p = _leading(scores, weights, top_p * float(weights.sum())), 1.0
    elif sampling.min_p > 0.0:  # the largest weight is 1; what is close to the limit is judged exactly below
        tokens = np.flatnonzero(_weights(scores, sampling.temperature) >= np.float32(0.999 * sampling.min_p))
    else:
        tokens = np.flatnonzero(np.isfinite(scores))
    probabilities = _probabilities(scores[tokens], sampling.temperature)
    if top_p < 1.0:
        kept = _leading(probabilities, probabilities, top_p)
        tokens, probabilities = tokens[kept], _normalised(probabilities[kept])
    if sampling.min_p > 0.0:
        stays = probabilities >= sampling.min_p * probabilities.max()
        tokens, probabilities = tokens[stays], _normalised(probabilities[stays])
    if sampling.typical_p < 1.0:
        kept = _typical(probabilities, sampling.typical_p)
        tokens, probabilities = tokens[kept], _normalised(probabilities[kept])
    return tokens, probabilities


def largest(scores: Floats, count: int) -> Tokens:
    """The ``count`` largest scores' tokens, largest first, of equal ones the smaller id first."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    tokens: Tokens = np.flatnonzero(scores >= _reached_by(scores, min(count, scores.size)))
    ranked: Tokens = tokens[np.argsort(-scores[tokens], kind="stable")]
    return ranked[:count]


def _keeps_every_token(sampling: SamplingParameters, vocabulary: int) -> bool:
    return (
        not 0 < sampling.top_k < vocabulary
        and sampling.top_p == 1.0
        and sampling.min_p == 0.0
        and sampling.typical_p == 1.0
    )


def _weights(scores: Floats, temperature: float) -> Floats:
    """Unnormalised probabilities, 1 for the largest score."""
    weights: Floats = scores - scores.max()
    weights *= np.float32(_sharpness(temperature))
    np.exp(weights, out=weights)
    return weights


def _probabilities(scores: Floats, temperature: float) -> Doubles:
    exact = scores.astype(np.float64)
    return _normalised(np.exp((exact - exact.max()) * _sharpness(temperature)))


def _sharpness(temperature: float) -> float:
    """1 / temperature, kept finite in float32 for a temperature next to 0."""
    return min(1.0 / temperature, 1e30)


def _normalised(weights: Doubles) -> Doubles:
    normalised: Doubles = weights / weights.sum()
    return normalised


def _top_k(scores: Floats, count: int) -> Tokens:
    tokens: Tokens = np.flatnonzero(scores >= _reached_by(scores, count))
    values = scores[tokens]
    if len(tokens) > count:
        kept = values >= np.partition(values, len(values) - count)[len(values) - count]
        tokens, values = tokens[kept], values[kept]
    possible: Tokens = tokens[np.isfinite(values)]
    return possible


def _reached_by(keys: Keys, count: int) -> float:
    """A bound that at least ``count`` keys reach, close to the ``count``-th largest.

    The count-th largest of the maxima of disjoint groups is one: each of those groups has a key that reaches it.
    """
    for size in _GROUPINGS:
        groups = keys.size // size
        if groups >= 2 * count:
            keys = keys[: size * groups].reshape(size, groups).max(axis=0)
            break
    return float(np.partition(keys, keys.size - count)[keys.size - count])


def _leading(keys: Keys, weights: Keys, needed: float) -> Tokens:
    """Positions of the largest keys, in any order, each of which stays while the weights before it fall short."""
    sure, candidates = _divided(keys, weights, needed)
    ranked = candidates[np.argsort(-keys[candidates], kind="stable")]
    own = weights[ranked].astype(np.float64)
    before = float(weights[sure].sum()) + own.cumsum() - own
    return np.concatenate([sure, ranked[: max(len(sure) == 0, int(np.count_nonzero(before < needed)))]])


def _divided(keys: Keys, weights: Keys, needed: float) -> tuple[Tokens, Tokens]:
    """Positions that surely stay, and the few among which the last that stays is found by sorting."""
    nothing = np.empty(0, dtype=np.int64)
    if keys.size <= _FEW:
        return nothing, np.arange(keys.size)
    for count in (_FIRST_CANDIDATES, _FEW):
        first = np.flatnonzero(keys >= _reached_by(keys, count))
        if weights[first].sum() >= needed:
            return nothing, first
    reached = float(weights[first].sum())
    sure, few = [first], np.flatnonzero((keys < keys[first].min()) & (weights > 0.0))
    while len(few) > _FEW:
        values = keys[few]
        is_upper = values >= 0.5 * (values.min() + values.max())
        upper = few[is_upper]
        mass = float(weights[upper].sum())
        if reached + mass >= needed:
            if len(upper) == len(few):
                break  # all are equal
            few = upper
        else:
            reached += mass
            sure.append(upper)
            few = few[~is_upper]
    return np.concatenate(sure), few


def _typical(probabilities: Doubles, mass: float) -> Tokens:
    """Positions of the tokens whose information is closest to the distribution's entropy."""
    possible = np.flatnonzero(probabilities)
    information = -np.log(probabilities[possible])
    distance = np.abs(information - (probabilities[possible] * information).sum())
    kept = _leading(-distance, probabilities[possible], mass)
    typical: Tokens = possible[distance <= distance[kept].max()]
    return typical


def _draw_from_all(weights: Floats, uniform: float) -> int:
    """Draw in two levels, a column of the weights laid out in rows and a token in it: no sum over all one by one."""
    columns = max(1, weights.size // _GROUPINGS[0])
    square = weights[: weights.size - weights.size % columns].reshape(-1, columns)
    rest = weights[square.size :]
    sums = np.append(square.sum(axis=0), rest).astype(np.float64)
    column = _at(sums, uniform)
    if column >= columns:
        return square.size + column - columns
    before = float(sums[:column].sum())
    own = square[:, column].astype(np.float64)
    return _at(own, (uniform * float(sums.sum()) - before) / float(own.sum())) * columns + column


def _at(weights: Doubles, uniform: float) -> int:
    """The position at ``uniform`` of the way through the weights; never one whose weight is 0."""
    reached = weights.cumsum()
    position = int(np.searchsorted(reached, uniform * reached[-1], side="right"))
    if position < len(weights) and weights[position] > 0.0:
        return position
    return int(np.flatnonzero(weights)[-1])
