"""The card's figures, by hand and against independent implementations."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from fathom_export.quality.statistics import LogitStatistics, average_ranks, cosines, relative_error, spearman

Logits = npt.NDArray[np.float32]

ROWS = st.tuples(st.integers(1, 5), st.integers(2, 9))
FLOATS = st.floats(-20, 20, width=32)


def two_of_one_shape() -> st.SearchStrategy[tuple[Logits, Logits]]:
    """Two arrays of logits of the same shape."""
    return ROWS.flatmap(
        lambda shape: st.tuples(
            arrays.arrays(np.float32, shape, elements=FLOATS), arrays.arrays(np.float32, shape, elements=FLOATS)
        )
    )


def test_figures_worked_out_by_hand() -> None:
    """Two positions over two tokens give the divergence, perplexity and agreement that paper and pencil give."""
    reference = np.log(np.array([[0.5, 0.5], [0.9, 0.1]]))
    tested = np.log(np.array([[0.25, 0.75], [0.9, 0.1]]))
    statistics = LogitStatistics()
    statistics.add(reference, tested, np.array([0, 1]))
    figures = statistics.agreement()
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert figures.positions == 2
    assert figures.mean_kl == pytest.approx(first / 2)
    assert figures.max_kl == pytest.approx(first)
    assert figures.reference_perplexity == pytest.approx(1 / math.sqrt(0.5 * 0.1))
    assert figures.perplexity == pytest.approx(1 / math.sqrt(0.25 * 0.1))
    assert figures.top1 == 0.5
    assert list(statistics.divergences) == pytest.approx([first, 0.0])


@given(two_of_one_shape())
@settings(deadline=None, max_examples=60)
def test_divergence_perplexity_and_cosine_are_those_of_torch(pair: tuple[Logits, Logits]) -> None:
    """Over any logits the figures are those of torch's own functions in float64."""
    reference, tested = pair
    targets = np.arange(len(reference)) % reference.shape[1]
    statistics = LogitStatistics()
    statistics.add(reference, tested, targets)
    figures = statistics.agreement()
    one, other = (torch.from_numpy(logits).double() for logits in pair)
    log_p, log_q = one.log_softmax(-1), other.log_softmax(-1)
    kl = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    loss = torch.nn.functional.cross_entropy(other, torch.from_numpy(targets))
    assert figures.mean_kl == pytest.approx(float(kl.mean()), rel=1e-9, abs=1e-12)
    assert figures.max_kl == pytest.approx(float(kl.max()), rel=1e-9, abs=1e-12)
    assert figures.perplexity == pytest.approx(float(loss.exp()), rel=1e-9)
    has_length = (one.norm(dim=-1) > 0) & (other.norm(dim=-1) > 0)
    expected = torch.nn.functional.cosine_similarity(one, other, dim=-1, eps=0)[has_length].numpy()
    assert cosines(reference, tested)[has_length.numpy()] == pytest.approx(expected, abs=1e-9)


@given(two_of_one_shape())
@settings(deadline=None, max_examples=30)
def test_figures_do_not_depend_on_how_positions_are_handed_over(pair: tuple[Logits, Logits]) -> None:
    """All positions at once and one by one give the same figures."""
    reference, tested = pair
    targets = np.zeros(len(reference), dtype=np.int64)
    whole, single = LogitStatistics(), LogitStatistics()
    whole.add(reference, tested, targets)
    for row in range(len(reference)):
        single.add(reference[row : row + 1], tested[row : row + 1], targets[row : row + 1])
    assert whole.agreement() == single.agreement()


def test_a_graph_that_gives_no_numbers_is_never_taken_for_a_good_one() -> None:
    """Not-a-number logits make the figures not a number, which no threshold lets pass."""
    statistics = LogitStatistics()
    statistics.add(np.ones((1, 3)), np.full((1, 3), np.nan), np.array([0]))
    assert math.isnan(statistics.agreement().mean_kl)


@given(arrays.arrays(np.float64, st.tuples(st.just(2), st.integers(2, 20)), elements=st.integers(-4, 4)))
@settings(deadline=None, max_examples=60)
def test_rank_correlation_is_scipys(pair: npt.NDArray[np.float64]) -> None:
    """With ties and without, ranks and correlation are scipy's."""
    one, other = pair
    assert list(average_ranks(one)) == list(stats.rankdata(one))
    if len(set(one)) > 1 and len(set(other)) > 1:
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)
    else:
        assert math.isnan(spearman(one, other))


def test_relative_error_and_cosine_at_zero() -> None:
    """Nothing against nothing is no error; something against nothing is an endless one."""
    zero, one = np.zeros((1, 2)), np.ones((1, 2))
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(0.1)
    assert relative_error(zero, zero) == 0.0
    assert relative_error(zero, one) == math.inf
    assert list(cosines(np.vstack([zero, zero]), np.vstack([zero, one]))) == [1.0, 0.0]
