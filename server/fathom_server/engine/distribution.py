"""A row of logits as a distribution to draw from, without sorting the vocabulary where a part of it will do.

Temperature, top-k, top-p, min-p and typical-p apply in this order, each to what the one before left (transformers'
order). A row is computed by itself with operations in a fixed order, so that its draw never depends on its neighbours.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from fathom_server.engine.sampling_parameters import SamplingParameters

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Keys = Floats | Doubles
Tokens = npt.NDArray[np.int64]

_FEW: Final = (256, 2048)
_BLOCK: Final = 64
_GROUPINGS: Final = (64, 8)


def draw(scores: Floats, sampling: SamplingParameters, uniform: float) -> int:
    """The token at ``uniform`` in [0, 1) of the distribution that ``sampling`` makes of ``scores``.

    ``scores`` is float32 [vocabulary], processed, with a finite maximum; ``sampling.temperature`` is above 0.
    """
    if 0 < sampling.top_k < scores.size or sampling.min_p > 0.0 or sampling.typical_p < 1.0:
        tokens, probabilities = kept_distribution(scores, sampling)
        return int(tokens[_at(probabilities, uniform)])
    weights = _weights(scores, sampling.temperature)
    if sampling.top_p == 1.0:
        return _at_of_many(weights, uniform)
    tokens = _nucleus(weights, sampling.top_p)
    return int(tokens[_at_of_many(weights[tokens], uniform)])


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
        tokens, top_p = _nucleus(_weights(scores, sampling.temperature), top_p), 1.0
    elif sampling.min_p > 0.0:  # the largest weight is 1; what is close to the limit is judged exactly below
        tokens = np.flatnonzero(_weights(scores, sampling.temperature) >= np.float32(0.999 * sampling.min_p))
    else:
        tokens = np.flatnonzero(np.isfinite(scores))
    probabilities = _probabilities(scores[tokens], sampling.temperature)
    if top_p < 1.0:
        ranked = np.argsort(-probabilities, kind="stable")
        kept = ranked[: _reaching(probabilities[ranked], top_p)]
        tokens, probabilities = tokens[kept], _normalised(probabilities[kept])
    if sampling.min_p > 0.0:
        stays = probabilities >= sampling.min_p * probabilities.max()
        tokens, probabilities = tokens[stays], _normalised(probabilities[stays])
    if sampling.typical_p < 1.0:
        stays = _typical(probabilities, sampling.typical_p)
        tokens, probabilities = tokens[stays], _normalised(probabilities[stays])
    return tokens, probabilities


def largest(scores: Floats, count: int) -> Tokens:
    """The ``count`` largest scores' tokens, largest first, of equal ones the smaller id first."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    tokens: Tokens = np.flatnonzero(scores >= _reached_by(scores, min(count, scores.size)))
    ranked: Tokens = tokens[np.argsort(-scores[tokens], kind="stable")]
    return ranked[:count]


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


def _nucleus(weights: Floats, top_p: float) -> Tokens:
    """Tokens of the largest weights, each of which stays while those before it fall short of ``top_p`` of all.

    A few candidates hold a peaked distribution's; a flat one's weights, not their places, are sorted.
    """
    needed = top_p * float(weights.sum())
    few = _few_that_reach(weights, weights, needed)
    if few is not None:
        return few
    values = np.sort(weights)[::-1]
    count = _reaching_of_many(values, needed)
    tokens: Tokens = np.flatnonzero(weights >= values[count - 1])
    if len(tokens) > count:
        equal = np.flatnonzero(weights[tokens] == values[count - 1])
        tokens = np.delete(tokens, equal[count - len(tokens) :])
    return tokens


def _few_that_reach(keys: Keys, weights: Keys, needed: float) -> Tokens | None:
    """Places of the largest keys, the largest first, as many as reach what is needed; None if it takes many."""
    for count in _FEW:
        if count >= keys.size:
            break
        places: Tokens = np.flatnonzero(keys >= _reached_by(keys, count))
        if weights[places].sum() >= needed:
            ranked: Tokens = places[np.argsort(-keys[places], kind="stable")]
            return ranked[: _reaching(weights[ranked].astype(np.float64), needed)]
    return None


def _reaching(weights: Doubles, needed: float) -> int:
    """How many of the weights it takes, from the first, to reach what is needed; all if they do not."""
    return min(len(weights), 1 + int(np.searchsorted(weights.cumsum(), needed, side="left")))


def _reaching_of_many(weights: Floats, needed: float) -> int:
    """``_reaching`` in two levels: blocks, then the one block in which it is reached."""
    blocks = weights.size // _BLOCK
    reached = weights[: blocks * _BLOCK].reshape(blocks, _BLOCK).sum(axis=1).astype(np.float64).cumsum()
    block = int(np.searchsorted(reached, needed, side="left"))
    before = float(reached[block - 1]) if block else 0.0
    rest = weights[block * _BLOCK :][:_BLOCK].astype(np.float64)
    return min(weights.size, block * _BLOCK + _reaching(rest, needed - before))


def _typical(probabilities: Doubles, mass: float) -> npt.NDArray[np.bool_]:
    """Which tokens stay: those whose information is closest to the distribution's entropy."""
    information = -np.log(np.where(probabilities > 0.0, probabilities, 1.0))
    distance = np.abs(information - (probabilities * information).sum())
    distance[probabilities == 0.0] = np.inf
    kept = _few_that_reach(-distance, probabilities, mass)
    if kept is None:
        ranked = np.argsort(distance)
        kept = ranked[: _reaching(probabilities[ranked], mass)]
    stays: npt.NDArray[np.bool_] = distance <= distance[kept[-1]]
    return stays


def _at_of_many(weights: Floats, uniform: float) -> int:
    """``_at`` in two levels, a column of the weights laid out in rows and a place in it: no sum one by one over all."""
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
