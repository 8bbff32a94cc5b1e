"""The stages of a run: one a level, and a sweep that finds the knee."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.load.plan import Stage, plan
from fathom_loadtest.scenario import Arrivals, ClosedLoop, Load, OpenLoop, Sweep


def stages(load: Load, holds_to: float = float("inf")) -> tuple[list[Stage], int | None]:
    """Every stage against a server that keeps the SLOs up to a level, and the knee's number."""
    following, found = plan(load), []
    stage = next(following)
    while True:
        found.append(stage)
        level = stage.users if stage.rate is None else stage.rate
        try:
            stage = following.send(0.99 if level <= holds_to else 0.5)
        except StopIteration as end:
            return found, end.value


def test_each_level_is_a_stage() -> None:
    """Closed loops list users, open ones rates, with what every stage of theirs has."""
    closed, knee = stages(ClosedLoop((1, 4), ramp_s=3, requests=9))
    assert closed == [Stage(0, 1, None, None, 9, ramp_s=3), Stage(1, 4, None, None, 9, ramp_s=3)]
    assert knee is None
    arrivals = Arrivals("constant")
    opened, _ = stages(OpenLoop((2, 8), ramp_from=1, arrivals=arrivals, max_in_flight=7, duration_s=5))
    assert opened == [Stage(n, 7, rate, 5, None, ramp_from=1, arrivals=arrivals) for n, rate in ((0, 2), (1, 8))]


@given(holds_to=st.integers(0, 3000), start=st.integers(1, 9), factor=st.floats(1.1, 10), bisections=st.integers(0, 12))
def test_a_sweep_over_users_ends_at_the_knee(holds_to: int, start: int, factor: float, bisections: int) -> None:
    """The knee is the highest level tried that held, and with enough halvings the very last that holds."""
    load = Sweep("users", start=start, factor=factor, most=2000, bisections=bisections, duration_s=1)
    tried, knee = stages(load, holds_to)
    users = [stage.users for stage in tried]
    held = [number for number in users if number <= holds_to]
    assert [stage.number for stage in tried] == list(range(len(tried)))
    assert (None if knee is None else tried[knee].users) == max(held, default=None)
    assert max(users) <= 2000
    assert len(set(users)) == len(users)
    broken = [number for number in users if number > holds_to]
    if bisections == 12 and broken and held:
        assert min(broken) - max(held) == 1


@given(holds_to=st.floats(0.3, 500), bisections=st.integers(0, 8))
def test_a_sweep_over_rates_narrows_the_interval(holds_to: float, bisections: int) -> None:
    """Every halving halves what is between the last rate that held and the first that broke."""
    tried, knee = stages(Sweep("rate", start=0.25, most=1000, bisections=bisections, duration_s=1), holds_to)
    rates = [stage.rate or 0.0 for stage in tried]
    assert knee is not None
    held, broke = max(rate for rate in rates if rate <= holds_to), min(rate for rate in rates if rate > holds_to)
    assert rates[knee] == held
    climbed = max(rates) / 2
    assert broke - held <= climbed / 2**bisections + 0.001 * broke, "halved, to four digits"


def test_a_sweep_that_never_breaks_ends_at_its_highest_level() -> None:
    """The top is tried once, whatever the factor makes of it."""
    tried, knee = stages(Sweep("users", most=10, requests=1))
    assert [stage.users for stage in tried] == [1, 2, 4, 8, 10]
    assert knee == 4


def test_a_sweep_whose_first_level_breaks_looks_below_it() -> None:
    """The interval from nothing is halved; where nothing holds there is no knee."""
    tried, knee = stages(Sweep("rate", start=8, bisections=3, duration_s=1), holds_to=2.5)
    assert [stage.rate for stage in tried] == [8, 4, 2, 3]
    assert knee == 2
    assert stages(Sweep("users", start=1, duration_s=1), holds_to=0) == ([Stage(0, 1, None, 1, None)], None)


def test_a_sweep_cannot_begin_above_its_end() -> None:
    """The message names both ends."""
    with pytest.raises(ScenarioError, match=r"most is 4; it must not be below start \(8\)"):
        Sweep("users", start=8, most=4, duration_s=1)
