"""Quality against cost: what handing over the most doubtful answers gives, at every threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fathom_export.cascade.survey import Observation
from fathom_server.cascade.settings import HIGHER_IS_DOUBTFUL, SignalName

Floats = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Answers:
    """A survey as arrays, a row a question.

    ``small_tokens`` are what asking the small model takes. A token of the small model costs ``small_cost`` of one of
    the large model's.
    """

    small_right: Truths
    large_right: Truths
    small_tokens: Floats
    large_tokens: Floats
    small_cost: float

    @classmethod
    def of(cls, observations: Sequence[Observation], small_cost: float, *, samples: bool = False) -> "Answers":
        """The arrays of a survey; with ``samples`` the sampled answers count as well."""
        return cls(
            np.array([each.small_right for each in observations]),
            np.array([each.large_right for each in observations]),
            np.array([float(each.small_tokens + each.sample_tokens * samples) for each in observations]),
            np.array([float(each.large_tokens) for each in observations]),
            small_cost,
        )

    def take(self, rows: npt.NDArray[np.int64]) -> "Answers":
        """Some of the questions."""
        return Answers(
            self.small_right[rows],
            self.large_right[rows],
            self.small_tokens[rows],
            self.large_tokens[rows],
            self.small_cost,
        )


@dataclass(frozen=True, slots=True)
class Point:
    """What one threshold gives.

    ``handed_over`` is a share of the questions, ``accuracy`` one of right answers. ``large_tokens`` are those that the
    large model read and wrote, ``cost`` both models' tokens in the large one's; both are shares of what the large model
    takes for all questions.
    """

    threshold: float
    handed_over: float
    accuracy: float
    large_tokens: float
    cost: float


def doubt_of(signal: SignalName, values: Floats) -> Floats:
    """Values turned so that more is more doubtful; what is no number is the most doubtful of all."""
    doubt = values if signal in HIGHER_IS_DOUBTFUL else -values
    return np.where(np.isnan(doubt), np.inf, doubt)


def judge(answers: Answers, handed_over: Truths, routed: Truths, threshold: float) -> Point:
    """What it gives to hand over these questions; the small model is not asked those that are ``routed``."""
    large = handed_over | routed
    everything = float(answers.large_tokens.sum())
    large_tokens = float(answers.large_tokens[large].sum())
    small_tokens = float(answers.small_tokens[~routed].sum())
    return Point(
        threshold,
        float(large.mean()),
        float(np.where(large, answers.large_right, answers.small_right).mean()),
        large_tokens / everything,
        (large_tokens + answers.small_cost * small_tokens) / everything,
    )


def sweep(signal: SignalName, answers: Answers, values: Floats, routed: Truths | None = None) -> list[Point]:
    """A point a threshold between two neighbouring values, and both ends: from nothing handed over to everything."""
    routed = np.zeros(len(values), dtype=bool) if routed is None else routed
    doubt = doubt_of(signal, values)
    known = np.unique(doubt[np.isfinite(doubt)])
    if not len(known):
        known = np.zeros(1)
    limits = [known[-1] + 1.0, *((known[1:] + known[:-1]) / 2)[::-1], known[0] - 1.0]
    sign = 1.0 if signal in HIGHER_IS_DOUBTFUL else -1.0
    return [judge(answers, doubt > limit, routed, float(sign * limit)) for limit in limits]


@dataclass(frozen=True, slots=True)
class Target:
    """What a cascade is to reach: at most ``loss_points`` of accuracy below the large model, or at most ``cost``."""

    loss_points: float = 1.0
    cost: float | None = None

    def choose(self, points: Sequence[Point], large_accuracy: float) -> Point | None:
        """The cheapest point that is good enough, or the best one that is cheap enough; None where there is none."""
        if self.cost is not None:
            within = [point for point in points if point.cost <= self.cost]
            return max(within, key=lambda point: (point.accuracy, -point.cost), default=None)
        least = large_accuracy - self.loss_points / 100 - 1e-9
        good = [point for point in points if point.accuracy >= least]
        return min(good, key=lambda point: (point.cost, -point.accuracy), default=None)

    def describe(self) -> str:
        """In words."""
        if self.cost is not None:
            return f"a cost of at most {self.cost:.0%} of the large model alone"
        return f"at most {self.loss_points:g} points below the large model"


def checked(
    signal: SignalName,
    answers: Answers,
    values: Floats,
    target: Target,
    folds: npt.NDArray[np.int64],
    routed: Truths | None = None,
) -> Point | None:
    """What the target's choice gives on questions that it was not made on, a fold at a time; None without a choice."""
    routed = np.zeros(len(values), dtype=bool) if routed is None else routed
    handed_over = np.zeros(len(values), dtype=bool)
    doubt = doubt_of(signal, values)
    sign = 1.0 if signal in HIGHER_IS_DOUBTFUL else -1.0
    for fold in np.unique(folds):
        others, own = np.flatnonzero(folds != fold), folds == fold
        points = sweep(signal, answers.take(others), values[others], routed[others])
        choice = target.choose(points, float(answers.large_right[others].mean()))
        if choice is None:
            return None
        handed_over[own] = doubt[own] > sign * choice.threshold
    return judge(answers, handed_over, routed, float("nan"))
