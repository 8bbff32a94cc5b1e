"""From a survey to a calibration: every signal's curve, and the choice that meets the target at the least cost."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from fathom_export.cascade.calibration import Calibration
from fathom_export.cascade.curve import Answers, Floats, Point, Target, Truths, checked, doubt_of, sweep
from fathom_export.cascade.learning import LEAST_ROWS, Learned, folds_of, learn
from fathom_export.cascade.survey import Observation
from fathom_export.errors import QualityError
from fathom_export.spec import CascadeSpec
from fathom_server.cascade.settings import SignalName

_ROUTE_QUANTILES: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_CURVE_POINTS: Final = 60


@dataclass(frozen=True, slots=True)
class SignalCurve:
    """One signal: how well it separates, its curve, its choice, and what that choice gives where it was not made.

    ``separation`` is the area under the ROC curve of right small answers against wrong ones: 1 is perfect, 0.5 chance.
    """

    signal: SignalName
    separation: float
    points: list[Point]
    choice: Point | None
    check: Point | None


@dataclass(frozen=True, slots=True)
class Finding:
    """Everything that a calibration found."""

    target: Target
    rows: int
    small_cost: float
    small_accuracy: float
    large_accuracy: float
    either_accuracy: float
    by_task: dict[str, tuple[float, float]]
    curves: list[SignalCurve]
    chosen: SignalCurve
    calibration: Calibration
    routed: float = 0.0


def find(observations: Sequence[Observation], spec: CascadeSpec, target: Target, small_cost: float) -> Finding:
    """Sweep every signal that was observed, and choose; raises QualityError where none reaches the target."""
    folds = folds_of(len(observations))
    values = {
        signal: np.array([each.values[signal] for each in observations]) for signal in sorted(observations[0].values)
    }
    learned: Learned | None = None
    if spec.cascade.signal in (None, "learned") and len(observations) >= LEAST_ROWS:
        learned = learn(observations, tokens=True, embeddings=bool(spec.cascade.encoder))
        values["learned"] = 1.0 - learned.probabilities
    if spec.cascade.signal is not None:
        values = {signal: each for signal, each in values.items() if signal == spec.cascade.signal}
    if not values:
        raise QualityError(
            f"signal 'learned' needs at least {LEAST_ROWS} questions; the held-out set has {len(observations)}"
        )
    classifier = None
    if spec.router.prompt_classifier and len(observations) >= LEAST_ROWS:
        classifier = learn(observations, tokens=False, embeddings=True)
    answers = Answers.of(observations, small_cost)
    with_samples = Answers.of(observations, small_cost, samples=True)
    found = []
    for signal in values:
        of_signal = with_samples if signal == "agreement" else answers
        found += [
            (_curve(signal, of_signal, values[signal], target, folds, routed), threshold, routed)
            for threshold, routed in _routes(classifier, len(observations))
        ]
    large_accuracy = float(answers.large_right.mean())
    good = [each for each in found if each[0].choice is not None]
    if not good:
        raise QualityError(_nearest(found, target, large_accuracy))
    chosen, prompt_threshold, routed = target_best(good, target)
    choice = chosen.choice
    if choice is None:
        raise ValueError("a choice without a point")
    calibration = Calibration(
        signal=chosen.signal,
        threshold=choice.threshold,
        learned=learned.model if chosen.signal == "learned" and learned is not None else None,
        prompt_threshold=prompt_threshold,
        classifier=None if classifier is None else classifier.model,
        measured=_measured(observations, target, small_cost, chosen, large_accuracy),
    )
    unrouted = [each[0] for each in found if not each[2].any()]
    return Finding(
        target,
        len(observations),
        small_cost,
        float(answers.small_right.mean()),
        large_accuracy,
        float((answers.small_right | answers.large_right).mean()),
        _by_task(observations),
        unrouted,
        chosen,
        calibration,
        float(routed.mean()),
    )


def target_best(
    found: Sequence[tuple[SignalCurve, float | None, Truths]], target: Target
) -> tuple[SignalCurve, float | None, Truths]:
    """The cheapest of choices that are good enough, or the best of those that are cheap enough."""

    def rank(each: tuple[SignalCurve, float | None, Truths]) -> tuple[float, float]:
        point = each[0].choice
        if point is None:
            return (float("inf"), 0.0)
        return (point.cost, -point.accuracy) if target.cost is None else (-point.accuracy, point.cost)

    return min(found, key=rank)


def _curve(
    signal: SignalName, answers: Answers, values: Floats, target: Target, folds: Any, routed: Truths
) -> SignalCurve:
    points = sweep(signal, answers, values, routed)
    choice = target.choose(points, float(answers.large_right.mean()))
    check = None if choice is None else checked(signal, answers, values, target, folds, routed)
    return SignalCurve(signal, _separation(doubt_of(signal, values), answers.small_right), points, choice, check)


def _routes(classifier: Learned | None, rows: int) -> list[tuple[float | None, Truths]]:
    """Thresholds of the router's classifier to try, with the questions that each sends straight away."""
    if classifier is None:
        return [(None, np.zeros(rows, dtype=bool))]
    limits = [1.0, *(float(limit) for limit in np.quantile(classifier.probabilities, _ROUTE_QUANTILES))]
    return [(limit, classifier.probabilities > limit) for limit in limits]


def _separation(doubt: Floats, right: Truths) -> float:
    """Of a right and a wrong small answer, how often the wrong one is more doubtful; ties count half."""
    if right.all() or not right.any():
        return float("nan")
    wrong_doubts, right_doubts = doubt[~right][:, None], doubt[right][None, :]
    return float((wrong_doubts > right_doubts).mean() + (wrong_doubts == right_doubts).mean() / 2)


def _by_task(observations: Sequence[Observation]) -> dict[str, tuple[float, float]]:
    tasks: dict[str, list[Observation]] = {}
    for each in observations:
        tasks.setdefault(each.task, []).append(each)
    return {
        task: (
            sum(each.small_right for each in group) / len(group),
            sum(each.large_right for each in group) / len(group),
        )
        for task, group in tasks.items()
    }


def _measured(
    observations: Sequence[Observation], target: Target, small_cost: float, chosen: SignalCurve, large_accuracy: float
) -> dict[str, Any]:
    step = max(1, len(chosen.points) // _CURVE_POINTS)
    check = chosen.check
    return {
        "target": target.describe(),
        "rows": len(observations),
        "small_cost": small_cost,
        "large_accuracy": large_accuracy,
        "small_accuracy": sum(each.small_right for each in observations) / len(observations),
        "choice": None if chosen.choice is None else asdict(chosen.choice),
        "elsewhere": None if check is None else {**asdict(check), "threshold": None},
        "curve": [asdict(point) for point in chosen.points[::step]],
    }


def _nearest(found: Sequence[tuple[SignalCurve, float | None, Truths]], target: Target, large_accuracy: float) -> str:
    """What comes nearest to a target that nothing reaches."""
    points = [(curve.signal, point) for curve, _, _ in found for point in curve.points]
    if target.cost is not None:
        signal, point = min(points, key=lambda each: each[1].cost)
        nearest = f"the cheapest is a cost of {point.cost:.1%} with an accuracy of {point.accuracy:.1%}"
    else:
        signal, point = max(points, key=lambda each: each[1].accuracy)
        nearest = f"the best is an accuracy of {point.accuracy:.1%} at a cost of {point.cost:.1%}"
    return (
        f"no threshold reaches {target.describe()} (its accuracy: {large_accuracy:.1%}); {nearest}, by {signal}; ask "
        "for less"
    )
