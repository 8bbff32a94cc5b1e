"""A run of any length is recorded in bounded memory: exactly while that is possible, within a known error beyond."""

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_loadtest.errors import OutputError
from fathom_loadtest.metrics import Distribution, StageTally, stage_figures
from fathom_loadtest.metrics.series import MOST_BUCKETS, SeriesTally
from fathom_loadtest.metrics.statistics import EXACT_VALUES, PERCENTILES, RESOLUTION
from fathom_loadtest.record import RequestRecord
from fathom_loadtest.recorder import RECENT, SAMPLED, Recorder, load_records
from fathom_loadtest.scenario import Slo

MS = 1_000_000
SECOND = 1_000_000_000


def record(index: int, start_ms: float, *gaps_ms: float, **fields: object) -> RequestRecord:
    """A request answered by responses of one token, so many ms apart."""
    at, times = round(start_ms * MS), []
    for gap in gaps_ms:
        at += round(gap * MS)
        times.append(at)
    own = {"finish_reason": "length", "task": "chat", "num_input_tokens": 5} | fields
    tokens = (1,) * len(times)
    return RequestRecord(0, index, round(start_ms * MS), at, tuple(times), tokens, num_output_tokens=len(times), **own)  # type: ignore[arg-type]


def filled(values: Sequence[float]) -> Distribution:
    """A distribution of these values."""
    distribution = Distribution()
    distribution.extend(values)
    return distribution


def test_many_values_become_a_histogram_whose_error_is_known() -> None:
    """Past a million values, percentiles are off by the stated resolution at most, the other statistics by nothing."""
    rng = np.random.default_rng(3)
    values = rng.lognormal(3.0, 1.5, EXACT_VALUES + 200_000)
    values[:1000] = 0.0
    distribution = Distribution()
    for chunk in np.array_split(values, 37):
        distribution.extend(chunk.tolist())
    found = distribution.statistics()
    assert found is not None
    assert (found.count, found.resolution) == (len(values), RESOLUTION)
    assert (found.min, found.max) == (values.min(), values.max())
    assert found.avg == pytest.approx(values.mean(), rel=1e-12)
    assert found.std == pytest.approx(values.std(), rel=1e-9)
    for percentile in PERCENTILES:
        assert getattr(found, f"p{percentile}") == pytest.approx(
            np.percentile(values, percentile), rel=1.1 * RESOLUTION
        )
    assert len(distribution.to_state()["values"]) < 8 * EXACT_VALUES
    assert len(distribution.to_state()["counts"]) < 60_000


@pytest.mark.parametrize(
    ("first", "second"), [(200, 300), (EXACT_VALUES, 300), (300, EXACT_VALUES), (EXACT_VALUES,) * 2]
)
def test_distributions_of_two_processes_merge_without_loss(first: int, second: int) -> None:
    """Merged, through the state that travels, they have the statistics of all values in one."""
    values = np.random.default_rng(5).gamma(2.0, 20.0, first + second).tolist()
    merged = filled(values[:first])
    merged.merge(Distribution.from_state(filled(values[first:]).to_state()))
    found, expected = merged.statistics(), filled(values).statistics()
    assert found is not None
    assert expected is not None
    assert (found.count, found.min, found.max) == (expected.count, expected.min, expected.max)
    for name in ("avg", "std", *(f"p{percentile}" for percentile in PERCENTILES)):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=2.1 * RESOLUTION)


SLOS = Slo.parse("ttft_ms=40,itl_ms=12")
requests = st.builds(
    record,
    st.integers(0, 10**6),
    st.integers(0, 20_000),
    st.integers(1, 90),
    st.integers(0, 30),
    st.integers(0, 30),
    error_kind=st.sampled_from([None, None, None, "ServerError", "OverloadedError"]),
    cancelled=st.sampled_from([False, False, False, True]),
    task=st.sampled_from(["chat", "search"]),
)


@given(st.lists(st.tuples(requests, st.integers(0, 2)), max_size=40))
def test_tallies_of_workers_merge_to_the_tally_of_one_process(parts: list[tuple[RequestRecord, int]]) -> None:
    """However requests are spread over three processes, figures and series are those of all in one."""
    tallies = [StageTally(SLOS) for _ in range(3)]
    for each, worker in parts:
        tallies[worker].add(each)
    merged = StageTally(SLOS)
    for tally in tallies:
        merged.merge(StageTally.from_state(tally.to_state(), SLOS))
    whole = StageTally(SLOS)
    for each, _ in sorted(parts, key=lambda part: part[1]):
        whole.add(each)
    found, expected = merged.figures(), whole.figures()
    assert found == expected
    assert merged.series(0) == whole.series(0)
    assert sum(merged.series(0).started) == len(parts)
    assert found.cancelled + found.failed + found.succeeded == found.requests == len(parts)


def test_a_cancelled_request_is_no_error_and_has_no_figures() -> None:
    """It is counted apart, and neither its latency nor its tokens are anybody's."""
    figures = stage_figures([record(0, 0, 10, 10), record(1, 0, 10, cancelled=True)], SLOS)
    assert (figures.requests, figures.succeeded, figures.failed, figures.cancelled) == (2, 1, 0, 1)
    assert figures.error_rate == 0.0
    assert figures.total_output_tokens == 2
    assert figures.request_latency_ms is not None
    assert figures.request_latency_ms.count == 1


def test_an_open_loop_counts_from_the_intended_start_as_well() -> None:
    """A request that was due 50 ms before it could be sent has both latencies, and breaks the SLO that a caller has."""
    late = record(0, 100, 30, 10, intended_ns=50 * MS)
    figures = stage_figures([late, record(1, 100, 30, 10, intended_ns=100 * MS)], Slo.parse("ttft_ms=40"))
    assert figures.ttft_ms is not None
    assert figures.due_ttft_ms is not None
    assert figures.due_request_latency_ms is not None
    assert figures.send_delay_ms is not None
    assert (figures.ttft_ms.max, figures.due_ttft_ms.max, figures.due_ttft_ms.min) == (30, 80, 30)
    assert (figures.due_request_latency_ms.max, figures.send_delay_ms.avg) == (90, 25)
    assert figures.goodput == pytest.approx(1 / 0.04)
    assert stage_figures([record(0, 0, 1)]).due_ttft_ms is None


def test_a_series_tells_what_happened_in_each_second() -> None:
    """Starts, ends, tokens, requests under way and latencies stand in the second in which they happened."""
    tally = SeriesTally()
    tally.add(record(0, 100, 200, 1000))  # tokens at 0.3 s and 1.3 s
    tally.add(record(1, 200, 100, 3000))  # tokens at 0.3 s and 3.3 s
    tally.add(record(2, 1500, 100, error_kind="ServerError", error_message="no"))
    series = tally.series(0)
    assert (series.bucket_s, series.start_s) == (1.0, 0.0)
    assert series.started == (2, 1, 0, 0)
    assert series.succeeded == (0, 1, 0, 1)
    assert series.failed == (0, 1, 0, 0)
    assert series.output_tokens == (2, 2, 0, 1)
    assert series.in_flight == (2, 1, 1, 0)
    assert series.ttft_ms_p50 == (None, pytest.approx(200, rel=0.016), None, pytest.approx(100, rel=0.016))
    assert series.request_latency_ms_p95[3] == pytest.approx(3100, rel=0.016)


def test_a_series_of_hours_widens_its_buckets() -> None:
    """Four hours have at most 3,600 buckets, of 4 s each, and no request is lost; two of different width merge."""
    long, short = SeriesTally(), SeriesTally()
    for second in range(4 * 3600):
        long.add(record(second, second * 1000, 5, 5))
    for second in range(100):
        short.add(record(second, second * 1000, 5, 5))
    before = long.series(0)
    assert before.bucket_s == 4.0
    assert len(before.started) <= MOST_BUCKETS
    assert sum(before.started) == sum(before.succeeded) == 4 * 3600
    short.merge(SeriesTally.from_state(long.to_state()))
    assert short.series(0).bucket_s == 4.0
    assert sum(short.series(0).started) == 4 * 3600 + 100
    assert short.series(0).started[:2] == (8, 8)


def test_the_recorder_keeps_every_record_on_disk_and_a_sample_at_hand(tmp_path: Path) -> None:
    """All are in the file; the sample is all of a small stage and an even pick of a large one; the latest are few."""
    recorder = Recorder(tmp_path / "requests.jsonl")
    large = 2 * SAMPLED
    for index in range(large):
        recorder.add(record(index, index, 5, 5))
    for index in range(30):
        recorder.add(RequestRecord(1, index, index, index + 1, error_kind="ServerError", error_message="gone"))
    sample = [each.index for each in recorder.sample(0)]
    assert len(sample) == len(set(sample)) == SAMPLED
    assert sample == sorted(sample)
    assert np.mean(sample) == pytest.approx(large / 2, rel=0.05)
    assert [each.index for each in recorder.sample(1)] == list(range(30))
    assert len(recorder.recent()) == RECENT
    recorder.add(record(7, 7, 5))  # writing goes on behind what was there
    recorder.save(tmp_path / "requests.jsonl")
    assert len(load_records(tmp_path / "requests.jsonl")) == len(recorder) == large + 31
    recorder.save(tmp_path / "copy.jsonl")
    assert (tmp_path / "copy.jsonl").read_bytes() == (tmp_path / "requests.jsonl").read_bytes()
    assert recorder.counts(1).failed == recorder.tally(1).failed == 30
    assert recorder.tally(1).examples == {"ServerError": "gone"}


def test_a_mix_has_the_figures_of_each_task_and_of_all(tmp_path: Path) -> None:
    """Vectors among texts take nothing from the figures of a stream, and throughput is of both."""
    recorder = Recorder()
    for index in range(10):
        recorder.add(record(index, index, 10, 5))
        recorder.add(RequestRecord(0, index, index * MS, (index + 4) * MS, ((index + 4) * MS,), (0,), 7, task="embed"))
    whole, tasks = recorder.tally(0).figures(), recorder.tallies_by_task(0)
    assert (whole.requests, whole.total_output_tokens, whole.warnings) == (20, 20, ())
    assert whole.output_tokens is not None
    assert whole.output_tokens.count == 10
    assert {name: tally.requests for name, tally in tasks.items()} == {"chat": 10, "embed": 10}
    assert tasks["embed"].figures().output_token_throughput is None


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """A record that cannot be written ends the run with the file and the remedy."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    recorder, long_answer = Recorder(full), record(0, 0, *[5] * 10_000)
    with pytest.raises(
        OutputError, match=r"/dev/full: a record cannot be written \(No space left on device\); make room"
    ):
        recorder.add(long_answer)


def test_records_of_another_clock_keep_their_intervals() -> None:
    """A record that is moved to another clock differs by the same time everywhere."""
    original = record(3, 100, 20, 5, 5, intended_ns=90 * MS)
    moved = original.moved(-7 * SECOND)
    assert {moved.start_ns - original.start_ns, moved.end_ns - original.end_ns} == {-7 * SECOND}
    assert [b - a for a, b in pairwise(moved.response_ns)] == [b - a for a, b in pairwise(original.response_ns)]
    assert moved.due_ns == 90 * MS - 7 * SECOND
    assert stage_figures([moved]).ttft_ms == stage_figures([original]).ttft_ms


def test_a_line_of_the_file_is_one_request(tmp_path: Path) -> None:
    """Every field stands in the line under its own name, whatever a message holds."""
    recorder = Recorder(tmp_path / "requests.jsonl")
    message = "two\nlines, „quotes“ \u2028 and 🙂"
    rng = random.Random(1)
    recorder.add(record(0, 5, rng.random(), error_kind="ServerError", error_message=message, worker=3))
    recorder.save(tmp_path / "requests.jsonl")
    (line,) = (tmp_path / "requests.jsonl").read_bytes().splitlines()
    assert json.loads(line)["error_message"] == message
    assert load_records(tmp_path / "requests.jsonl") == list(recorder)
