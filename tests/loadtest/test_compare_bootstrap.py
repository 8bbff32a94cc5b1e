"""The intervals' arithmetic against numpy, and how often they are wrong where the truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_loadtest.compare.bootstrap import (
    FEWEST_SLICES,
    MOST_SLICES,
    Draws,
    interval,
    place_of,
    slice_count,
)

RANKS = (0.0, 0.5, 0.95, 0.99, 1.0)


@given(
    st.lists(st.tuples(st.floats(0.1, 1e4), st.integers(0, 3)), min_size=1, max_size=60),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_a_draw_has_the_figures_of_the_requests_that_it_drew(
    requests: list[tuple[float, int]], drawn: list[int]
) -> None:
    """Quantiles and means equal numpy's on the values, each repeated as often as its slice was drawn."""
    values = np.array([value for value, _ in requests])
    where = np.array([place for _, place in requests])
    draws = Draws(np.array([drawn], dtype=np.float64))
    repeated = np.repeat(values, np.array(drawn)[where])
    quantiles, means = draws.quantiles(values, where, RANKS)[0], draws.means(values, where)[0]
    if len(repeated):
        assert quantiles == pytest.approx(np.percentile(repeated, [100 * rank for rank in RANKS]))
        assert means == pytest.approx(repeated.mean())
    else:
        assert np.isnan(quantiles).all()
        assert np.isnan(means)


def test_many_values_are_binned_without_harm() -> None:
    """Of 200,000 values, more than there are bins, quantiles stay within half a per cent up to p99."""
    random = np.random.default_rng(3)
    values, where = random.lognormal(3, 1, 200_000), random.integers(0, 8, 200_000)
    found = Draws(np.ones((1, 8))).quantiles(values, where, (0.5, 0.95, 0.99))[0]
    assert found == pytest.approx(np.percentile(values, [50, 95, 99]), rel=5e-3)


def test_every_draw_takes_as_many_slices_as_there_are() -> None:
    """Rows sum to the number of slices, the same seed draws the same, and another one differs."""
    weights = Draws.make(16, seed=1).weights
    assert weights.shape == (2000, 16)
    assert (weights.sum(axis=1) == 16).all()
    assert (weights == Draws.make(16, seed=1).weights).all()
    assert (weights != Draws.make(16, seed=2).weights).any()


def test_slices_outlast_what_binds_requests_together() -> None:
    """Independent latencies leave short slices; waves of slow ones make them longer than a wave; short runs few."""
    random = np.random.default_rng(0)
    places = np.sort(random.random(4000))
    noise = random.random(4000)
    waves = noise + 3 * (np.floor(places * 16) % 2)
    assert slice_count(places, noise, usual=1e-4) >= MOST_SLICES // 4
    assert slice_count(places, waves, usual=1e-4) <= 16
    assert slice_count(places, noise, usual=0.2) == FEWEST_SLICES
    assert list(place_of(np.array([-0.5, 0.0, 0.49, 0.5, 1.0, 1.5]), 2)) == [0, 0, 0, 1, 1, 1]


def queue_latencies(random: np.random.Generator, requests: int, load: float) -> tuple[np.ndarray, np.ndarray]:
    """Arrivals and latencies of a queue with one server (Lindley's recursion): neighbours wait for each other."""
    gaps, service = random.exponential(1 / load, requests), random.gamma(4, 0.25, requests)
    wait, latencies = 0.0, np.empty(requests)
    for place in range(requests):
        wait = max(0.0, wait - gaps[place])
        latencies[place] = wait + service[place]
        wait = latencies[place]
    return np.cumsum(gaps), latencies


def test_two_runs_of_the_same_queue_rarely_differ() -> None:
    """Of 60 pairs of runs of one busy queue at most a tenth of the 95 % intervals leave out zero."""
    random, missed = np.random.default_rng(7), np.zeros(3)
    for pair in range(60):
        drawn, slices = [], []
        for seed in (2 * pair, 2 * pair + 1):
            arrivals, latencies = queue_latencies(random, 800, load=0.6)
            places = arrivals / arrivals[-1]
            slices.append(slice_count(places, latencies, float(np.median(latencies) / arrivals[-1])))
            draws = Draws.make(slices[-1], seed, draws=400)
            where = place_of(places, slices[-1])
            quantiles = draws.quantiles(latencies, where, (0.5, 0.95))
            drawn.append(np.column_stack([draws.means(latencies, where), quantiles]))
        for figure in range(3):
            bounds = interval(drawn[1][:, figure] / drawn[0][:, figure] - 1, 0.95, min(slices))
            assert bounds is not None
            missed[figure] += not bounds[0] <= 0 <= bounds[1]
    assert (missed <= 6).all(), missed


def test_intervals_widen_where_slices_are_few_and_vanish_where_draws_are() -> None:
    """The same draws of 5 slices say less than those of 64; with more than a tenth of them empty they say nothing."""
    draws = np.random.default_rng(1).normal(size=4000)
    few, many = interval(draws, 0.95, 5), interval(draws, 0.95, 64)
    assert few is not None
    assert many is not None
    assert few[1] - few[0] > 1.3 * (many[1] - many[0])
    assert many == pytest.approx((-1.96, 1.96), abs=0.2)
    draws[:500] = np.nan
    assert interval(draws, 0.95, 64) is None
