"""Figures against values worked out by hand, and against an independent formula on random records."""

import math
import statistics as stdlib
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_loadtest.metrics import inter_chunk_latencies_ms, itl_ms, meets, stage_figures, statistics, ttft_ms
from fathom_loadtest.recorder import RequestRecord
from fathom_loadtest.scenario import Slo

MS = 1_000_000


def record(start_ms: int, responses: list[tuple[int, int]], *, index: int = 0, **fields: object) -> RequestRecord:
    """A request whose responses arrive at (ms, tokens)."""
    times = tuple(at * MS for at, _ in responses)
    tokens = tuple(number for _, number in responses)
    own = {"num_input_tokens": 10, "num_output_tokens": sum(tokens), "finish_reason": "length"} | fields
    end_ns = max([start_ms * MS, *times])
    return RequestRecord(0, index, start_ms * MS, end_ns, times, tokens, **own)  # type: ignore[arg-type]


def failed(start_ms: int, kind: str = "ServerError") -> RequestRecord:
    """A request that failed half a second later."""
    return RequestRecord(0, 0, start_ms * MS, (start_ms + 500) * MS, error_kind=kind, error_message="no")


HAND = [
    record(0, [(100, 1), (120, 1), (160, 2)]),  # TTFT 100, latency 160, ITL 60 / 3 = 20
    record(50, [(250, 2), (300, 3), (450, 1)]),  # TTFT 200, latency 400, ITL 200 / 5 = 40
    record(400, [(1000, 1)]),  # TTFT 600, latency 600, no ITL
]


def test_figures_of_three_requests_worked_out_by_hand() -> None:
    """TTFT, ITL, latencies, throughputs and token totals follow AIPerf's definitions."""
    figures = stage_figures([*HAND, failed(10)])
    assert figures.ttft_ms is not None
    assert figures.itl_ms is not None
    assert figures.request_latency_ms is not None
    assert figures.inter_chunk_latency_ms is not None
    assert (figures.ttft_ms.count, figures.ttft_ms.avg, figures.ttft_ms.p50) == (3, 300.0, 200.0)
    assert (figures.ttft_ms.min, figures.ttft_ms.max) == (100.0, 600.0)
    assert (figures.itl_ms.count, figures.itl_ms.avg) == (2, 30.0)
    assert figures.request_latency_ms.avg == pytest.approx((160 + 400 + 600) / 3)
    assert sorted(gap for one in HAND for gap in inter_chunk_latencies_ms(one)) == [20.0, 40.0, 50.0, 150.0]
    assert (figures.inter_chunk_latency_ms.count, figures.inter_chunk_latency_ms.avg) == (4, 65.0)
    assert figures.duration_s == 1.0  # first request at 0 ms, last response at 1000 ms
    assert (figures.total_input_tokens, figures.total_output_tokens) == (30, 11)
    assert figures.request_throughput == 3.0
    assert figures.output_token_throughput == 11.0
    assert figures.input_token_throughput == 30.0
    assert (figures.requests, figures.succeeded, figures.failed, figures.error_rate) == (4, 3, 1, 0.25)
    assert figures.errors == {"ServerError": 1}
    assert figures.warnings == ("1 of 3 answers have fewer than two output tokens and so no ITL",)


def test_percentiles_interpolate_linearly() -> None:
    """p99 of 0 to 100 is 99, and p25 of four values lies three quarters of the way from the first to the second."""
    assert statistics([float(value) for value in range(101)]).p99 == 99.0  # type: ignore[union-attr]
    assert statistics([1.0, 2.0, 4.0, 8.0]).p25 == 1.75  # type: ignore[union-attr]
    assert statistics([2.0, 4.0]).std == 1.0  # type: ignore[union-attr]
    assert statistics([]) is None


def test_a_last_response_without_tokens_ends_no_interval() -> None:
    """A response that carries only the finish reason changes neither latency nor inter-chunk gaps."""
    with_tail = record(0, [(100, 1), (120, 1), (900, 0)])
    without = record(0, [(100, 1), (120, 1)])
    for figure in (ttft_ms, itl_ms, inter_chunk_latencies_ms):
        assert figure(with_tail) == figure(without)
    assert stage_figures([with_tail]).duration_s == 0.12


def test_an_answer_without_tokens_has_a_latency_and_no_ttft() -> None:
    """A model that stops at once is measured by its only response."""
    empty = record(0, [(80, 0)])
    figures = stage_figures([empty])
    assert ttft_ms(empty) is None
    assert figures.ttft_ms is None
    assert figures.request_latency_ms is not None
    assert figures.request_latency_ms.avg == 80.0


def test_goodput_counts_requests_that_keep_every_objective() -> None:
    """One slow figure is enough to fail, a missing one too, and a failed request never counts."""
    slos = Slo.parse("ttft_ms=200,itl_ms=40")
    assert [meets(one, slos) for one in HAND] == [True, True, False]
    assert not meets(failed(0), Slo.parse("request_latency_ms=1000"))
    vector = record(0, [(300, 0)], finish_reason=None)
    assert meets(vector, slos), "an objective of streams says nothing of an embedding"
    assert not meets(vector, Slo.parse("ttft_ms=1000,request_latency_ms=200"))
    assert stage_figures([*HAND, failed(0)], slos=slos).goodput == 2.0
    assert stage_figures(HAND).goodput is None


@pytest.mark.parametrize(
    ("records", "warning"),
    [
        ([], "no request ended"),
        ([failed(0), failed(5)], "all 2 requests failed"),
        ([record(0, [(0, 1)])], "no time passed"),
    ],
)
def test_nothing_is_divided_by_zero(records: list[RequestRecord], warning: str) -> None:
    """Where there is nothing to divide by, there is no throughput, and a warning says why."""
    figures = stage_figures(records, slos=Slo.parse("ttft_ms=1"))
    assert (figures.request_throughput, figures.output_token_throughput, figures.goodput) == (None, None, None)
    assert any(warning in text for text in figures.warnings)


def test_vectors_have_no_figures_of_a_stream() -> None:
    """A task without output tokens has latency, requests and input tokens only."""
    figures = stage_figures([record(0, [(50, 0)], finish_reason=None), record(10, [(60, 0)], finish_reason=None)])
    assert (figures.ttft_ms, figures.itl_ms, figures.output_tokens, figures.output_token_throughput) == (None,) * 4
    assert figures.request_latency_ms is not None
    assert figures.request_latency_ms.avg == 50.0
    assert figures.input_token_throughput == pytest.approx(20 / 0.06)
    assert figures.warnings == ()


def linear_percentile(values: list[float], percent: int) -> float:
    """The definition of numpy's ``linear`` percentile, in exact arithmetic."""
    ordered = sorted(map(Fraction, values))
    rank = Fraction(percent, 100) * (len(ordered) - 1)
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (ordered[above] - ordered[below]) * (rank - below))


@given(st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=60))
def test_statistics_agree_with_exact_arithmetic(values: list[float]) -> None:
    """Every statistic equals the one computed with fractions."""
    found = statistics(values)
    assert found is not None
    for percent in (1, 5, 10, 25, 50, 75, 90, 95, 99):
        assert getattr(found, f"p{percent}") == pytest.approx(linear_percentile(values, percent), rel=1e-9, abs=1e-9)
    assert found.avg == pytest.approx(stdlib.fmean(values), rel=1e-9, abs=1e-9)
    assert found.std == pytest.approx(stdlib.pstdev(values), rel=1e-6, abs=1e-6)
    assert (found.count, found.min, found.max) == (len(values), min(values), max(values))


gaps = st.lists(st.tuples(st.integers(0, 10**10), st.integers(0, 4)), min_size=1, max_size=12)


@st.composite
def requests(draw: st.DrawFn) -> list[RequestRecord]:
    """Random requests, some of which fail."""
    made = []
    for index in range(draw(st.integers(1, 12))):
        start = draw(st.integers(0, 10**11))
        at, times, tokens = start, [], []
        for gap, number in draw(gaps):
            at += gap
            times.append(at)
            tokens.append(number)
        kind = draw(st.sampled_from([None, None, None, "OverloadedError", "ServerError"]))
        made.append(
            RequestRecord(
                0, index, start, at, tuple(times), tuple(tokens), draw(st.integers(0, 500)), sum(tokens), "length", kind
            )
        )
    return made


@given(requests())
def test_stage_figures_agree_with_an_independent_formula(records: list[RequestRecord]) -> None:
    """Throughputs, totals and means equal those of a second implementation written from the definitions."""
    figures = stage_figures(records)
    ttfts, itls, latencies, chunk_gaps, last = [], [], [], [], 0
    good = [one for one in records if one.error_kind is None]
    for one in good:
        timeline = [pair for pair in zip(one.response_ns, one.response_tokens, strict=True) if pair[1] > 0]
        final = timeline[-1][0] if timeline else one.response_ns[-1]
        last = max(last, final)
        latencies.append((final - one.start_ns) / 1e6)
        if timeline:
            ttfts.append((timeline[0][0] - one.start_ns) / 1e6)
            if one.num_output_tokens > 1:
                itls.append((final - timeline[0][0]) / 1e6 / (one.num_output_tokens - 1))
            chunk_gaps += [(b - a) / 1e6 for (a, _), (b, _) in pairwise(timeline)]
        else:
            chunk_gaps += [(b - a) / 1e6 for a, b in pairwise(one.response_ns)]
    for found, expected in (
        (figures.ttft_ms, ttfts),
        (figures.itl_ms, itls),
        (figures.request_latency_ms, latencies),
        (figures.inter_chunk_latency_ms, chunk_gaps),
    ):
        assert (found.count if found else 0) == len(expected)
        if found:
            assert found.avg == pytest.approx(stdlib.fmean(expected), abs=1e-6)
            assert found.p95 == pytest.approx(linear_percentile(expected, 95), abs=1e-6)
    assert figures.errors == {kind: sum(one.error_kind == kind for one in records) for kind in figures.errors}
    assert sum(figures.errors.values()) == figures.failed == len(records) - len(good)
    assert figures.total_output_tokens == sum(sum(one.response_tokens) for one in good)
    span_ns = last - min((one.start_ns for one in good), default=0)
    if good and span_ns:
        assert figures.request_throughput == pytest.approx(len(good) * 1e9 / span_ns)
        assert figures.output_token_throughput == pytest.approx(figures.total_output_tokens * 1e9 / span_ns)
    else:
        assert figures.request_throughput is None
