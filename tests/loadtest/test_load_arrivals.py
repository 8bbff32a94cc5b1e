"""Arrivals of open loops: the rate that was asked for, in the form that was asked for, the same for the same seed."""

import random
from itertools import islice, pairwise
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_loadtest.load.arrivals import due_times_s
from fathom_loadtest.scenario import Arrivals

PROCESSES = st.one_of(
    st.just(Arrivals()),
    st.just(Arrivals("constant")),
    st.builds(Arrivals, st.just("gamma"), st.floats(0.2, 8)),
)


def times(arrivals: Arrivals, rate: float, number: int, seed: int = 1) -> list[float]:
    """The first due times."""
    return list(islice(due_times_s(arrivals, rate, random.Random(seed)), number))


@given(arrivals=PROCESSES, rate=st.floats(0.01, 1e4), seed=st.integers())
def test_times_ascend_and_are_the_seeds_own(arrivals: Arrivals, rate: float, seed: int) -> None:
    """Nothing is due before what came earlier, and the same seed gives the same times."""
    due = times(arrivals, rate, 200, seed)
    assert due[0] >= 0
    assert due == sorted(due) == times(arrivals, rate, 200, seed)
    if arrivals.process != "constant":
        assert due != times(arrivals, rate, 200, seed + 1)


@pytest.mark.parametrize(
    ("arrivals", "variation"),
    [
        (Arrivals(), 1.0),
        (Arrivals("constant"), 0.0),
        (Arrivals("gamma", 0.25), 2.0),
        (Arrivals("gamma", 4.0), 0.5),
        (Arrivals("gamma", 1.0), 1.0),
    ],
)
def test_gaps_vary_as_the_process_says(arrivals: Arrivals, variation: float) -> None:
    """Gaps have the rate's mean, and the coefficient of variation 1/√burstiness."""
    gaps = [later - earlier for earlier, later in pairwise(times(arrivals, 20, 20_000))]
    assert fmean(gaps) == pytest.approx(1 / 20, rel=0.05)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(variation, abs=0.05)


@given(size=st.integers(1, 50), arrivals=PROCESSES)
def test_bursts_come_together(size: int, arrivals: Arrivals) -> None:
    """Requests of a burst are due at one moment; the next burst is due later."""
    burst = Arrivals(arrivals.process, arrivals.burstiness, size)
    due = times(burst, 5, 4 * size)
    groups = [due[start : start + size] for start in range(0, 4 * size, size)]
    assert all(len(set(group)) == 1 for group in groups)
    assert len({group[0] for group in groups}) == 4


def test_bursts_leave_the_rate_unchanged() -> None:
    """Bursts of 10 at 20 requests/s come twice a second."""
    due = times(Arrivals("poisson", burst_size=10), 20, 40_000)
    assert len(due) / due[-1] == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize(("start", "end"), [(0.0, 100.0), (20.0, 60.0), (100.0, 1.0), (50.0, 50.0)])
def test_a_ramp_goes_evenly_from_one_rate_to_the_other(start: float, end: float) -> None:
    """Each tenth of a ramp has as many requests as the rate in its middle says, and none is due at or after its end."""
    due = list(due_times_s(Arrivals("constant"), end, random.Random(0), ramp_from=start, ramp_s=200))
    for tenth in range(10):
        middle = start + (end - start) * (tenth + 0.5) / 10
        found = sum(20 * tenth <= at < 20 * (tenth + 1) for at in due)
        assert found == pytest.approx(middle * 20, abs=2)
    assert due[-1] < 200
