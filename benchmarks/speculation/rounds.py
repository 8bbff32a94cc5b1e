"""Rounds of all methods in turn, and the figures that they leave."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.speculation.contender import Answer, Contender
from benchmarks.speculation.repository import METHODS
from benchmarks.speculation.workloads import Job


@dataclass(frozen=True, slots=True)
class Turn:
    """One method's turn on a workload: decode tokens a second, seconds in all, drafted tokens tried and kept.

    Of a server those are not known, and tokens that it sends together have no time between them.
    """

    method: str
    tokens_per_s: float
    seconds: float
    tokens: int
    proposed: int | None
    accepted: int | None


def measure(contenders: Mapping[str, Contender], work: Sequence[Job], rounds: int) -> dict[str, Any]:
    """Rounds of all methods in turn; figures, ratios and every turn."""
    turns: list[list[Turn]] = []
    calmest: dict[str, list[float]] = {method: [float("inf")] * len(work) for method in METHODS}
    same = True
    for number in range(rounds + 1):
        answers: dict[str, list[Answer]] = {method: [] for method in METHODS}
        seconds = dict.fromkeys(METHODS, 0.0)
        before = {method: contenders[method].counts() for method in METHODS}
        for place, job in enumerate(work):
            for at in range(len(METHODS)):
                method = METHODS[(number + place + at) % len(METHODS)]
                begin = time.perf_counter()
                answers[method].append(contenders[method].answer(job))
                took = time.perf_counter() - begin
                seconds[method] += took
                if number:
                    calmest[method][place] = min(calmest[method][place], took)
        done = {
            method: _turn(method, answers[method], seconds[method], before[method], contenders[method].counts())
            for method in METHODS
        }
        texts = {method: [answer.token_ids for answer in answers[method]] for method in METHODS}
        same = same and all(texts[method] == texts["none"] for method in METHODS)
        if number:  # the first round warms up: costs and acceptance are learned in it
            turns.append([done[method] for method in METHODS])
    return {
        "tokens_per_s": {
            method: round(statistics.median(turn[at].tokens_per_s for turn in turns), 1)
            for at, method in enumerate(METHODS)
        },
        "ratio": {
            method: round(statistics.median(turn[at].tokens_per_s / turn[0].tokens_per_s for turn in turns), 3)
            for at, method in enumerate(METHODS)
        },
        "ratio_of_calmest": {method: round(sum(calmest["none"]) / sum(calmest[method]), 3) for method in METHODS},
        "ratio_of_seconds_in_all": {
            method: round(statistics.median(turn[0].seconds / turn[at].seconds for turn in turns), 3)
            for at, method in enumerate(METHODS)
        },
        "acceptance": {method: _acceptance([turn[at] for turn in turns]) for at, method in enumerate(METHODS)},
        "tokens": turns[0][0].tokens,
        "same_answers": same,
        "turns": [[asdict(turn) for turn in round_] for round_ in turns],
    }


def _acceptance(turns: Sequence[Turn]) -> float | None:
    proposed = sum(turn.proposed or 0 for turn in turns)
    return round(sum(turn.accepted or 0 for turn in turns) / proposed, 3) if proposed else None


def _turn(
    method: str,
    answers: Sequence[Answer],
    seconds: float,
    before: tuple[int, int] | None,
    after: tuple[int, int] | None,
) -> Turn:
    decoded = sum(len(one.token_ids) - one.first_piece for one in answers)
    decode_s = sum(one.last_s - one.first_s for one in answers)
    proposed, accepted = (
        (None, None) if before is None or after is None else (after[0] - before[0], after[1] - before[1])
    )
    tokens = sum(len(one.token_ids) for one in answers)
    return Turn(method, round(decoded / decode_s, 2), round(seconds, 4), tokens, proposed, accepted)
