"""How many guesses to try: as many as make the most tokens a second, none where they do not pay.

A step with drafted tokens takes longer and yields more. With S(i, j) the probability that the first j guesses for
sequence i all come true, a step yields Σ over sequences of 1 + Σ over j of S(i, j) tokens (Leviathan et al. 2023, with
an acceptance of its own for each guess). The likeliest guesses are taken first, and as many of them as make the
quotient of tokens and seconds largest: with many sequences the seconds grow with every guess, and often none is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fathom_server.engine.speculation.step_costs import StepCosts

_CLASS_DECAY: Final = 0.99
_CLASS_WEIGHT: Final = 8.0
_SEQUENCE_DECAY: Final = 0.9
_SEQUENCE_WEIGHT: Final = 2.0
_HIGHEST: Final = 0.98

_MARGIN: Final = 1.05
"""Guessing must promise so much more to be preferred: below lies the noise of the measurements."""

_REFRESH_STEPS: Final = 48
_FIRST_PATIENCE: Final = 8
_LONGEST_PATIENCE: Final = 512
_REST_STEPS: Final = 8
_ASKING_SHARE: Final = 0.02
"""Share of the steps' time that may go into asking a guesser which does not pay."""
_TRIAL_GUESSES: Final = 2
_SURPRISE: Final = 0.8
_NEVER: Final = 1 << 30


@dataclass(slots=True)
class SequenceRecord:
    """How one sequence's guesses did against what their classes promised: decayed sums of trials."""

    came_true: float = _SEQUENCE_WEIGHT
    promised: float = _SEQUENCE_WEIGHT


class Acceptance:
    """How likely a guessed token is accepted, by its class and by how the sequence did so far.

    A class is what the guesser knows of a guess (the length of a match, the draft model's own probability).
    ``first_rates`` are assumed of each class until it was seen.
    """

    def __init__(self, first_rates: Sequence[float]) -> None:
        self._came_true = [rate * _CLASS_WEIGHT for rate in first_rates]
        self._tried = [_CLASS_WEIGHT for _ in first_rates]

    def observe(self, kind: int, accepted: bool, record: SequenceRecord) -> None:
        """Take in what became of a guess that stood behind accepted ones."""
        rate = self._came_true[kind] / self._tried[kind]
        record.came_true = _SEQUENCE_DECAY * (record.came_true - _SEQUENCE_WEIGHT) + accepted + _SEQUENCE_WEIGHT
        record.promised = _SEQUENCE_DECAY * (record.promised - _SEQUENCE_WEIGHT) + rate + _SEQUENCE_WEIGHT
        self._came_true[kind] = _CLASS_DECAY * self._came_true[kind] + accepted
        self._tried[kind] = _CLASS_DECAY * self._tried[kind] + 1.0

    def rate(self, kind: int, record: SequenceRecord) -> float:
        """Probability that a guess of a class is accepted once those before it were."""
        rate = self._came_true[kind] / self._tried[kind]
        return min(_HIGHEST, rate * record.came_true / record.promised)


@dataclass(frozen=True, slots=True)
class Choice:
    """How many guesses to try for each sequence and in all, and the tokens a second that this promises.

    A rate of 0 marks guesses that are tried to learn from them, whatever they promise.
    """

    lengths: list[int]
    drafts: int
    tokens_per_second: float


def best_choice(
    survivals: Sequence[Sequence[float]],
    plain_seconds: float,
    draft_seconds: float,
    pass_seconds: Callable[[int, int], float] | None = None,
) -> Choice:
    """The choice that makes the most tokens a second.

    ``survivals[i][j]`` is S(i, j + 1), falling in j; a step takes ``plain_seconds``, and
    ``draft_seconds`` more for each guess; ``pass_seconds(depth, sequences)`` is what the guesser takes for the guess of
    a depth (from 0) for so many sequences at once, None where guessing costs nothing.
    """
    order = sorted(((-survival, j, i) for i, row in enumerate(survivals) for j, survival in enumerate(row)))
    tokens, guessing = float(len(survivals)), 0.0
    at_depth: list[int] = []
    best, best_rate = 0, tokens / plain_seconds
    for taken, (negative, depth, _) in enumerate(order, start=1):
        tokens -= negative
        if pass_seconds is not None:
            if depth == len(at_depth):
                at_depth.append(0)
            before = pass_seconds(depth, at_depth[depth]) if at_depth[depth] else 0.0
            at_depth[depth] += 1
            guessing += pass_seconds(depth, at_depth[depth]) - before
        rate = tokens / (plain_seconds + taken * draft_seconds + guessing)
        if rate > best_rate:
            best, best_rate = taken, rate
    lengths = [0] * len(survivals)
    for _, _, i in order[:best]:
        lengths[i] += 1
    return Choice(lengths, best, best_rate)


class DraftLengths:
    """Chooses how many guesses to try in each step, and learns what steps cost from those that ran.

    ``learns_unasked``: the guesser learns how good its guesses are without trying them. Else some are tried now and
    then while they do not seem to pay, ever more rarely the longer that lasts.
    """

    def __init__(self, *, learns_unasked: bool) -> None:
        self.costs = StepCosts()
        self._learns_unasked = learns_unasked
        self._planned = (0, 0)
        self._since_plain = 0
        self._since_drafts = 0
        self._patience = _FIRST_PATIENCE
        self._rests_from = _NEVER
        self._debt = 0.0

    def choose(
        self, survivals: Sequence[Sequence[float]], pass_seconds: Callable[[int, int], float] | None = None
    ) -> Choice:
        """How many of each sequence's guesses to try in the next step, at most ``len(survivals[i])``."""
        choice = self._choose(survivals, pass_seconds)
        self.plan(len(survivals), choice.drafts)
        return choice

    def is_resting(self, sequences: int) -> bool:
        """Whether nothing would be tried for so many sequences now, known without looking at any guess; counts a step.

        Where guesses did not pay they are left alone until it is time to try some, unless there is less load; and until
        steps have taken so long that what was last spent on asking is a small share.
        """
        due = self._since_drafts + 1
        if self._learns_unasked or sequences < self._rests_from:
            return False
        if self._debt <= 0.0 and (due >= self._patience or due % _REST_STEPS == 0):
            return False
        self._since_drafts += 1
        self.plan(sequences, 0)
        return True

    def charge(self, seconds: float) -> None:
        """Say what asking the guesser took; it counts where that did not pay."""
        if self._rests_from != _NEVER:
            self._debt += seconds

    def plan(self, sequences: int, drafts: int) -> None:
        """Say what the next step is made of, where it is not what ``choose`` said."""
        self._planned = (sequences, drafts)

    def observe_step(self, rows_tokens: int, seconds: float) -> None:
        """Learn from a step, if it was made of what was planned and nothing else."""
        self._debt = max(0.0, self._debt - _ASKING_SHARE * seconds)
        (sequences, drafts), self._planned = self._planned, (0, 0)
        if not sequences or rows_tokens != sequences + drafts:
            return
        plain = self.costs.plain(sequences)
        if drafts and plain is not None and seconds < _SURPRISE * (plain + drafts * self.costs.each(sequences)):
            self._patience = _FIRST_PATIENCE  # what is known of costs is out of date
        self.costs.observe(sequences, drafts, seconds)

    def _choose(self, survivals: Sequence[Sequence[float]], pass_seconds: Callable[[int, int], float] | None) -> Choice:
        none = Choice([0] * len(survivals), 0, 0.0)
        plain = self.costs.plain(len(survivals))
        self._rests_from = _NEVER
        if plain is None or not any(survivals):
            self._since_plain = 0
            return none
        choice = best_choice(survivals, plain, self.costs.each(len(survivals)), pass_seconds)
        if choice.drafts and choice.tokens_per_second > _MARGIN * len(survivals) / plain:
            self._since_drafts, self._patience = 0, _FIRST_PATIENCE
            self._since_plain += 1
            if self._since_plain > _REFRESH_STEPS:  # what a step costs without drafts must not be forgotten
                self._since_plain = 0
                return none
            return choice
        self._since_plain, self._rests_from = 0, len(survivals)
        self._since_drafts += 1
        if self._since_drafts < self._patience:
            return none
        self._since_drafts, self._patience = 0, min(2 * self._patience, _LONGEST_PATIENCE)
        return self._trial(survivals, plain)

    def _trial(self, survivals: Sequence[Sequence[float]], plain: float) -> Choice:
        """Guesses to try although they do not seem to pay, in case they do by now."""
        if self._learns_unasked:  # none, if guesses are so poor that they would not pay even if steps were cheap
            return best_choice(survivals, plain, self.costs.assumed(len(survivals)))
        likeliest = max(range(len(survivals)), key=lambda i: survivals[i][0] if survivals[i] else 0.0)
        lengths = [min(_TRIAL_GUESSES, len(row)) if i == likeliest else 0 for i, row in enumerate(survivals)]
        return Choice(lengths, sum(lengths), 0.0)
