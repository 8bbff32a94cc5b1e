"""The benchmark beside peers: what is made of its runs, and one small run of ours."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks.page import marks
from benchmarks.peers import report
from benchmarks.peers.checkpoint import TINY, write_checkpoint
from benchmarks.peers.workers.line_protocol import Answer, Job, drive
from benchmarks.peers.workload import MEASURES, Workload, judge

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).with_name("recorded_peers.json")


@pytest.fixture
def result() -> dict[str, Any]:
    """A recorded round, and a second one in which every contender is faster or slower by a factor of its own."""
    recorded: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    factors = dict(zip(recorded["contenders"], (1.1, 0.8, 1.25, 0.9), strict=True))
    recorded["runs"] += [
        {**run, "round": 1, "value": run["value"] * factors[run["contender"]]} for run in recorded["runs"]
    ]
    return recorded


def test_medians_are_over_rounds_of_each_rounds_median(result: dict[str, Any]) -> None:
    """A turn of two runs counts as one value, its median, and the figure is the median of the rounds."""
    report.summarise(result)
    of = [run for run in result["runs"] if run["contender"] == "Fathom throughput" and run["measure"] == "prefill_512"]
    rounds = sorted(sum(run["value"] for run in of if run["round"] == each) / 2 for each in (0, 1))
    assert len(of) == 4
    assert result["medians"]["Fathom throughput"]["prefill_512"] == pytest.approx(sum(rounds) / 2, abs=1e-3)


def test_ratios_are_those_of_the_profile_that_counts_against_the_hardest_peer(result: dict[str, Any]) -> None:
    """`latency` counts in decode_1, `throughput` elsewhere; the peer that leaves the lowest ratio is the one named."""
    report.summarise(result)
    assert set(result["ratios"]) == set(MEASURES) - {"paced_goodput"}
    for measure, ratio in result["ratios"].items():
        profile = "latency" if measure == "decode_1" else "throughput"
        ours = f"Fathom {profile}"
        against = {
            name: _median(
                [_round(result, ours, measure, each) / _round(result, name, measure, each) for each in (0, 1)]
            )
            for name, about in result["contenders"].items()
            if not about["profile"]
        }
        assert ratio == pytest.approx(min(against.values()), abs=1e-3)
        assert result["best_peers"][measure] == min(against, key=lambda name: against[name])
        assert ratio == result["ratios_by_profile"][profile][measure]


def test_peers_that_met_no_objective_at_all_make_no_ratio(result: dict[str, Any]) -> None:
    """Nothing is divided by a goodput of zero, which is what the peers of the recorded round reached."""
    report.summarise(result)
    assert result["medians"]["OpenVINO GenAI int4"]["paced_goodput"] == 0
    assert "paced_goodput" not in result["ratios"]


def test_a_contender_that_is_faster_in_every_round_has_a_ratio_above_one(result: dict[str, Any]) -> None:
    """A slow phase that meets everybody in one round changes no ratio."""
    slowed = copy.deepcopy(result)
    for run in slowed["runs"]:
        run["value"] *= 0.5 if run["round"] == 1 else 1.0
    report.summarise(result)
    report.summarise(slowed)
    for measure, ratio in result["ratios"].items():
        assert slowed["ratios"][measure] == pytest.approx(ratio, abs=2e-3)


def test_a_peer_that_could_not_be_made_is_a_row_that_says_why(result: dict[str, Any]) -> None:
    """Who is missing is shown with the reason, and counts in no ratio."""
    gone = "OpenVINO GenAI int4"
    result["runs"] = [run for run in result["runs"] if run["contender"] != gone]
    result["contenders"][gone]["missing"] = "its packages cannot be had"
    report.summarise(result)
    assert f"| {gone} | not measured: its packages cannot be had |" in report.table(result)
    assert gone not in result["best_peers"].values()


def test_a_run_on_a_busy_machine_says_that_it_is_worth_nothing(result: dict[str, Any]) -> None:
    """The recorded round was measured beside other work, and its table says so; without that work it would not."""
    report.summarise(result)
    assert "**Not to be relied on**" in report.table(result)
    for run in result["runs"]:
        run["strangers_cores"] = 0.05
    assert "**Not to be relied on**" not in report.table(result)


def test_page_and_picture_are_redrawn_between_the_markers_alone(result: dict[str, Any], tmp_path: Path) -> None:
    """What stands around the markers stays; a second drawing changes nothing; the picture is an SVG."""
    page = tmp_path / "docs" / "performance.md"
    page.parent.mkdir()
    begin, end = marks("peers")
    page.write_text(f"# Performance\n\nBefore.\n\n{begin}\nold\n{end}\n\nAfter.\n", encoding="utf-8")
    report.summarise(result)
    path = report.save(result, tmp_path / "results")
    report.redraw(result, path, page)
    drawn = page.read_text(encoding="utf-8")
    assert drawn.startswith("# Performance\n\nBefore.\n")
    assert drawn.endswith("\n\nAfter.\n")
    assert "old" not in drawn
    assert path.name == f"peers-{result['date'][:10]}.json"
    report.redraw(json.loads(path.read_text(encoding="utf-8")), path, page)
    assert page.read_text(encoding="utf-8") == drawn
    assert ElementTree.parse(page.parent / report.PICTURE).getroot().tag.endswith("svg")  # noqa: S314  (our own)


def test_everybody_gets_the_same_requests_and_every_round_others() -> None:
    """Prompts depend on measure and round alone; paced requests arrive one after another."""
    workload = Workload()
    for measure in MEASURES:
        assert workload.jobs(measure, 3) == workload.jobs(measure, 3)
        assert workload.jobs(measure, 3) != workload.jobs(measure, 4)
    (paced,) = workload.jobs("paced_goodput", 0)
    assert [job.at_s for job in paced] == sorted(job.at_s for job in paced)
    assert {len(job.prompt) for job in paced} <= set(workload.paced_prompt_tokens)


def test_an_answer_of_another_length_is_no_result() -> None:
    """Throughput of answers that ended early would be a lie, so it is refused."""
    jobs = [Job(0.0, [1] * 8, 4)]
    with pytest.raises(ValueError, match="has 3 tokens, and 4 were asked for"):
        judge(Workload(), "decode_1", jobs, [Answer(first_s=0.1, last_s=0.4, tokens=3)])


def test_goodput_counts_requests_that_meet_both_objectives() -> None:
    """TTFT counts from the arrival; one of three is late with its first token, one slow with the others."""
    workload = Workload(ttft_slo_ms=1000, itl_slo_ms=100)
    jobs = [Job(at_s, [1] * 8, 11) for at_s in (0.0, 1.0, 2.0)]
    answers = [
        Answer(first_s=0.5, last_s=1.0, tokens=11),
        Answer(first_s=2.5, last_s=3.0, tokens=11),
        Answer(first_s=2.5, last_s=4.0, tokens=11),
    ]
    value, details = judge(workload, "paced_goodput", jobs, answers)
    assert details["good_share"] == pytest.approx(1 / 3)
    assert value == pytest.approx(1 / 4.0)


class _Counter:
    """An engine that gives every request one token a step."""

    def __init__(self) -> None:
        self.left: dict[int, int] = {}

    def submit(self, index: int, job: Job) -> None:
        self.left[index] = job.max_tokens

    def is_busy(self) -> bool:
        return bool(self.left)

    def step(self) -> list[tuple[int, int]]:
        got = [(index, 1) for index in self.left]
        self.left = {index: left - 1 for index, left in self.left.items() if left > 1}
        return got


def test_requests_reach_a_stepped_engine_no_earlier_than_they_arrive() -> None:
    """Late arrivals are submitted between steps, and every answer is in its own request's place."""
    jobs = [Job(0.05, [1], 3), Job(0.0, [1], 5)]
    answers = drive(_Counter(), jobs)
    assert [answer.tokens for answer in answers] == [3, 5]
    assert answers[0].first_s >= 0.05


def test_the_checkpoint_is_the_same_whenever_it_is_written(tmp_path: Path) -> None:
    """Weights and tokenizer come from seeds, and the tokenizer gives every text back."""
    from tokenizers import Tokenizer

    write_checkpoint(tmp_path / "one", TINY)
    write_checkpoint(tmp_path / "two", TINY)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    tokenizer = Tokenizer.from_file(str(tmp_path / "one" / "tokenizer.json"))
    text = "Füße, 日本語 and \U0001f680\n\ttabs"
    assert tokenizer.get_vocab_size() == TINY.vocabulary
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_small_run_of_ours_goes_through_export_triton_and_client(tmp_path: Path) -> None:
    """One round of a tiny model: the command exports, serves, measures and writes JSON, table and picture."""
    command = [sys.executable, "-m", "benchmarks.peers", "--tiny", "--rounds", "1", "--starts", "1"]
    command += ["--only", "Fathom throughput", "--measures", "decode_1", "throughput_16"]
    command += ["--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").glob("peers-*.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert {run["measure"] for run in result["runs"]} == {"decode_1", "throughput_16"}
    assert all(run["value"] > 0 for run in result["runs"])
    assert result["contenders"]["Fathom throughput"]["memory"]["rss_mib"] > 0
    assert "**Fathom throughput** (int8)" in (tmp_path / "out" / "performance.md").read_text(encoding="utf-8")


def _round(result: dict[str, Any], name: str, measure: str, round_: int) -> float:
    runs = [run for run in result["runs"] if run["contender"] == name and run["measure"] == measure]
    return _median([run["value"] for run in runs if run["round"] == round_])


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
