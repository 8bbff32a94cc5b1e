"""How many guesses are tried: the most tokens a second by what steps cost, none where they do not pay."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from fathom_server.engine.speculation.draft_length import Acceptance, DraftLengths, SequenceRecord, best_choice
from fathom_server.engine.speculation.step_costs import STALE_STEPS, PassCosts, RecentCost, StepCosts

RATES = st.lists(st.floats(0.05, 0.98), min_size=1, max_size=3)


@settings(deadline=None, max_examples=150)
@given(
    rates=RATES,
    fixed=st.floats(0.5, 5.0),
    slope=st.floats(0.001, 2.0),
    each_pass=st.floats(0.0, 2.0),
)
def test_the_choice_is_the_best_of_all(rates: list[float], fixed: float, slope: float, each_pass: float) -> None:
    """Where each token costs the same, no other numbers of guesses give more tokens a second."""
    most = 4
    survivals = [[rate ** (depth + 1) for depth in range(most)] for rate in rates]

    def pass_seconds(depth: int, sequences: int) -> float:
        return each_pass * sequences

    def rate_of(lengths: tuple[int, ...]) -> float:
        tokens = sum(1 + sum(row[:length]) for row, length in zip(survivals, lengths, strict=True))
        return tokens / (fixed + (slope + each_pass) * sum(lengths))

    best = max(map(rate_of, itertools.product(range(most + 1), repeat=len(rates))))
    choice = best_choice(survivals, fixed, slope, pass_seconds)
    assert abs(rate_of(tuple(choice.lengths)) - best) <= 1e-9 * best
    assert abs(choice.tokens_per_second - best) <= 1e-9 * best


def learned(lengths: DraftLengths, survivals: list[list[float]], plain: float, draft: float, steps: int) -> list[int]:
    """What is tried over some steps of a machine where a step takes ``plain``, and ``draft`` more for each guess."""
    tried = []
    for _ in range(steps):
        drafts = lengths.choose(survivals).drafts
        lengths.observe_step(len(survivals) + drafts, plain + draft * drafts)
        tried.append(drafts)
    return tried


def test_load_ends_guessing_and_its_end_brings_it_back() -> None:
    """Guesses that pay for one sequence are not tried for sixteen whose step is full, and are again for one."""
    for learns_unasked in (True, False):
        lengths = DraftLengths(learns_unasked=learns_unasked)
        good = [0.8, 0.64, 0.51, 0.41]
        alone = learned(lengths, [good], 10.0, 1.0, 60)
        assert alone.count(0) <= 3
        assert alone[-5:].count(4) == 5
        crowded = learned(lengths, [good] * 16, 50.0, 3.0, 400)
        assert sum(map(bool, crowded)) < 40, "it is tried now and then, and rarely"
        assert sum(map(bool, crowded[200:])) <= 4
        assert learned(lengths, [good], 10.0, 1.0, 20).count(0) <= 2


def test_costs_that_fall_are_noticed() -> None:
    """A machine on which guesses did not pay, and then do, is found out within a thousand steps."""
    for learns_unasked in (True, False):
        lengths = DraftLengths(learns_unasked=learns_unasked)
        good = [0.7, 0.5]
        assert learned(lengths, [good], 10.0, 9.0, 300)[-50:].count(0) >= 48
        changed = learned(lengths, [good], 10.0, 0.5, 1000)
        assert changed[-40:].count(0) <= 2


def test_poor_guesses_are_not_even_tried() -> None:
    """Where it is known unasked that guesses come true one time in a hundred, none is tried, however cheap."""
    lengths = DraftLengths(learns_unasked=True)
    assert sum(learned(lengths, [[0.01, 0.0001]], 10.0, 1.0, 2000)) <= 2


def test_a_step_that_was_something_else_teaches_nothing() -> None:
    """A step with a piece of a prompt in it, or without what was planned, does not count."""
    lengths = DraftLengths(learns_unasked=True)
    lengths.choose([[0.9]])
    lengths.observe_step(257, 100.0)
    assert lengths.costs.plain(1) is None
    lengths.observe_step(1, 100.0)
    assert lengths.costs.plain(1) is None, "nothing was planned for this one"
    lengths.choose([[0.9]])
    lengths.observe_step(1, 7.0)
    assert lengths.costs.plain(1) == 7.0


def test_the_cost_of_a_drafted_token_is_learned_from_any_number_of_them() -> None:
    """What steps take beyond those without drafts, by the token; assumed before any was measured, never nothing."""
    costs = StepCosts()
    assert costs.plain(2) is None
    for seconds in (9.0, 10.0, 50.0):
        costs.observe(2, 0, seconds)
    assert costs.plain(2) == 9.0
    assert costs.each(2) == costs.assumed(2) == 9.0 / 8
    costs.observe(2, 4, 11.0)
    assert costs.each(2) == 0.5
    for _ in range(20):
        costs.observe(2, 3, 12.0)
        costs.observe(2, 6, 15.0)
    assert costs.each(2) == 1.0
    for _ in range(20):
        costs.observe(2, 3, 8.0)
    assert costs.each(2) == costs.assumed(2) / 10


def test_hiccups_do_not_count() -> None:
    """Of the first measurements the least counts, later the lower quartile of the last fifteen."""
    cost = RecentCost()
    cost.observe(100.0)
    cost.observe(1.0)
    assert cost.value == 1.0
    for value in (1.1, 1.2, 90.0, 80.0, 95.0, 1.3, 1.2):
        cost.observe(value)
    assert 1.0 < cost.value < 1.4
    for _ in range(15):
        cost.observe(5.0)
    assert cost.value == 5.0


def test_an_old_cost_is_forgotten() -> None:
    """Drafts that cost much once are given another chance after some hundred steps without any."""
    costs = StepCosts()
    costs.observe(1, 0, 10.0)
    costs.observe(1, 4, 90.0)
    assert costs.each(1) == 20.0
    for _ in range(STALE_STEPS + 1):
        costs.observe(1, 0, 10.0)
    assert costs.each(1) == costs.assumed(1)


def test_passes_never_measured_are_taken_from_the_nearest() -> None:
    """First passes and later ones apart, by number of sequences; nothing known is free, so that it is tried."""
    passes = PassCosts()
    assert passes.seconds(0, 3) == 0.0
    passes.observe(0, 2, 5.0)
    assert passes.seconds(3, 1) == 5.0
    passes.observe(1, 1, 3.0)
    passes.observe(1, 8, 6.0)
    assert passes.seconds(2, 3) == 3.0
    assert passes.seconds(2, 7) == 6.0
    assert passes.seconds(0, 8) == 5.0


def test_acceptance_is_learned_by_class_and_by_sequence() -> None:
    """A class's rate follows what is seen; a sequence that does better or worse than its classes is told apart."""
    acceptance, lucky, unlucky = Acceptance([0.5, 0.5]), SequenceRecord(), SequenceRecord()
    for _ in range(400):
        acceptance.observe(0, True, lucky)
        acceptance.observe(0, False, unlucky)
        acceptance.observe(1, True, SequenceRecord())
    assert 0.4 < acceptance.rate(0, SequenceRecord()) < 0.6
    assert acceptance.rate(1, SequenceRecord()) > 0.95
    assert acceptance.rate(0, lucky) > 1.5 * acceptance.rate(0, SequenceRecord())
    assert acceptance.rate(0, unlucky) < 0.5 * acceptance.rate(0, SequenceRecord())
