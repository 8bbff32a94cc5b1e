"""Every shape of load against a real Triton: what was asked for is what the server and the records show."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.loadtest.command import Finished, run, write_prompts

from fathom_loadtest.recorder import RequestRecord

if TYPE_CHECKING:
    from conftest import Triton
    from tests.loadtest.twin_server import TwinServer

MS = 1_000_000


def run_file(server: "Triton", folder: Path, text: str, *arguments: object) -> Finished:
    """Run a scenario file."""
    file = folder / "scenario.toml"
    file.write_text(text)
    return run(server, folder / "out", [file, *arguments])


def in_order(records: list[RequestRecord]) -> list[RequestRecord]:
    """Records in the order of the scenario's requests."""
    return sorted(records, key=lambda record: (record.stage, record.index, record.turn))


def due_ms(records: list[RequestRecord]) -> list[float]:
    """When requests were due, after the first."""
    due = [record.due_ns for record in in_order(records)]
    return [(at - due[0]) / MS for at in due]


def test_an_open_loop_sends_at_its_own_times(triton: "Triton", tmp_path: Path) -> None:
    """Requests are due at exactly the wished distance, whatever the server does, and none is sent before it is due."""
    arguments = ["--model", "paced", "--rate", "40,80", "--arrivals", "constant", "--requests", 40]
    done = run(triton, tmp_path / "out", [*arguments, "--input-tokens", 8, "--output-tokens", 16])
    assert done.status == 0, done.stderr
    stages = [[record for record in done.records if record.stage == stage] for stage in (0, 1)]
    for records, distance_ms in zip(stages, (25, 12.5), strict=True):
        gaps = [later - earlier for earlier, later in pairwise(due_ms(records))]
        assert gaps == pytest.approx([distance_ms] * 39)
        assert all(record.start_ns >= record.due_ns for record in records)
    assert [stage["rate"] for stage in done.report["stages"]] == [40, 80]
    figures = done.figures()
    assert figures["due_ttft_ms"]["avg"] == pytest.approx(figures["ttft_ms"]["avg"] + figures["send_delay_ms"]["avg"])
    assert done.report["scenario"]["load"]["arrivals"]["process"] == "constant"


def test_a_stall_is_not_hidden(triton: "Triton", tmp_path: Path) -> None:
    """One request under way at once: the others are late, and their latency from the intended time has the wait."""
    arguments = ["--model", "paced", "--rate", 100, "--arrivals", "constant", "--requests", 12, "--max-in-flight", 1]
    done = run(triton, tmp_path / "out", [*arguments, "--input-tokens", 8, "--output-tokens", 16])
    figures, stage = done.figures(), done.report["stages"][0]
    assert figures["succeeded"] == 12
    assert stage["late"] == 11
    assert figures["request_latency_ms"]["max"] < figures["due_request_latency_ms"]["p50"]
    one_after_the_other = in_order(done.records)
    assert all(later.start_ns >= earlier.end_ns for earlier, later in pairwise(one_after_the_other))


def test_a_request_that_finds_no_place_in_its_time_is_an_error(triton: "Triton", tmp_path: Path) -> None:
    """Streams that stall end by the request's own limit, and who waited longer than that is never sent."""
    prompts = write_prompts(tmp_path, "hang on")
    arguments = ["--model", "paced", "--rate", 50, "--arrivals", "constant", "--requests", 6, "--max-in-flight", 1]
    before = len(triton.seen())
    done = run(triton, tmp_path / "out", [*arguments, "--prompts", prompts, "--timeout-s", 0.5, "--warmup-requests", 0])
    errors = done.figures()["errors"]
    assert set(errors) == {"DeadlineExceededError", "NotSentError"}
    assert len(triton.seen()) - before == errors["DeadlineExceededError"] < 6
    assert done.status == 1
    assert "raise max_in_flight or offer less" in done.stdout


def test_users_of_a_closed_loop_can_begin_one_after_the_other(triton: "Triton", tmp_path: Path) -> None:
    """Over a ramp of one second four users begin a quarter of a second apart."""
    prompts = write_prompts(tmp_path, "hello")
    arguments = ["--model", "paced", "--users", 4, "--ramp-s", 1, "--requests", 4, "--prompts", prompts]
    done = run(triton, tmp_path / "out", [*arguments, "--output-tokens", 400, "--warmup-requests", 0])
    opened = done.report["stages"][0]["opened_ns"]
    starts = sorted(record.start_ns - opened for record in done.records)
    assert [start >= user * 250 * MS for user, start in enumerate(starts)] == [True] * 4


MIX = """
seed = 5
load = { shape = "open", rates = 60, requests = 60 }

[[tasks]]
name = "short"
model = "paced"
weight = 2
input_tokens = { distribution = "uniform", low = 5, high = 20 }
output_tokens = 4

[[tasks]]
name = "long"
model = "paced"
task = "chat"
input_tokens = { distribution = "lognormal", mean = 60, stddev = 30 }
output_tokens = { distribution = "uniform", low = 10, high = 14 }
cancellation = { share = 0.5, after_tokens = 3 }

[[tasks]]
model = "vectors"
task = "embed"
input_tokens = 12
"""


def test_a_mix_asks_several_models_and_repeats_with_its_seed(triton: "Triton", tmp_path: Path) -> None:
    """Each task has its share and its figures; a seed sends the same requests at the same times."""

    def requests(seed: int) -> tuple[Finished, list[tuple[Any, ...]], list[dict[str, Any]]]:
        folder = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        before = len(triton.seen())
        done = run_file(triton, folder, MIX, "--seed", seed, "--warmup-requests", 0)
        asked = sorted(triton.seen()[before:], key=json.dumps)
        records = in_order(done.records)
        named = [(record.task, record.model, record.cancelled) for record in records]
        assert due_ms(records) == sorted(due_ms(records))
        return done, [*named, *[(round(at, 3),) for at in due_ms(records)]], asked

    done, sent, asked = requests(5)
    tasks = done.report["stages"][0]["tasks"]
    counts = Counter(record.task for record in done.records)
    assert set(tasks) == set(counts) == {"short", "long", "embed"}
    assert {name: figures["requests"] for name, figures in tasks.items()} == counts
    assert counts["short"] > counts["long"] > 4
    assert tasks["long"]["cancelled"] > 0
    assert tasks["embed"]["ttft_ms"] is None
    assert {record.model for record in done.records if record.task == "embed"} == {"vectors"}
    again = requests(5)
    assert (again[1], again[2]) == (sent, asked)


LEAVING = """
load = { shape = "closed", users = 4, requests = 40 }

[[tasks]]
name = "after five tokens"
model = "paced"
input_tokens = 5
output_tokens = 60
cancellation = { share = 1, after_tokens = 5 }

[[tasks]]
name = "after a time"
model = "paced"
input_tokens = 5
output_tokens = 60
cancellation = { share = 1, after_s = 0.15 }

[[tasks]]
name = "would have left later"
model = "paced"
input_tokens = 5
output_tokens = 4
cancellation = { share = 1, after_tokens = 10 }

[[tasks]]
name = "would have left much later"
model = "paced"
input_tokens = 5
output_tokens = 4
cancellation = { share = 1, after_s = 10 }
"""


def test_a_cancelled_request_is_no_error(triton: "Triton", tmp_path: Path) -> None:
    """Who leaves has the tokens that had come, and is counted apart; an answer that is whole by then is one."""
    done = run_file(triton, tmp_path, LEAVING)
    assert done.status == 0, done.stderr
    by_task: dict[str, list[RequestRecord]] = {}
    for record in done.records:
        by_task.setdefault(record.task, []).append(record)
    assert len(by_task) == 4
    assert all(record.succeeded for record in done.records)
    for name in ("after five tokens", "after a time"):
        assert all(record.cancelled for record in by_task[name])
    assert {record.num_output_tokens for record in by_task["after five tokens"]} <= {5, 6}
    assert all(record.num_output_tokens < 60 for record in by_task["after a time"])
    for name in ("would have left later", "would have left much later"):
        assert {(record.cancelled, record.num_output_tokens) for record in by_task[name]} == {(False, 4)}
    cancelled = len(by_task["after five tokens"]) + len(by_task["after a time"])
    assert (done.figures()["cancelled"], done.figures()["failed"]) == (cancelled, 0)


def test_a_conversation_carries_the_models_own_answers(triton: "Triton", tmp_path: Path) -> None:
    """Every turn has all questions and answers before it, and starts after the answer before it."""
    arguments = ["--model", "paced", "--task", "chat", "--input-tokens", 12, "--output-tokens", 3, "--requests", 4]
    before = len(triton.seen())
    turns = "tasks[0].conversation={turns={distribution='uniform', low=2, high=4}, think_time_s=0.02}"
    done = run(triton, tmp_path / "out", [*arguments, "--users", 2, "--set", turns, "--warmup-requests", 0])
    assert done.status == 0, done.stderr
    talks: dict[int | None, list[RequestRecord]] = {}
    for record in in_order(done.records):
        talks.setdefault(record.conversation, []).append(record)
    assert set(talks) == {0, 1, 2, 3}
    for talk in talks.values():
        assert [record.turn for record in talk] == list(range(len(talk)))
        assert 2 <= len(talk) <= 4
        assert all(later.start_ns > earlier.end_ns for earlier, later in pairwise(talk))
        # by the server's count a message costs three tokens, and each answer of three words is carried along
        assert [record.num_input_tokens for record in talk] == [12 + 18 * turn for turn in range(len(talk))]
    asked = [json.loads(seen["messages"]) for seen in triton.seen()[before:] if "messages" in seen]
    carried = [messages for messages in asked if len(messages) > 1]
    assert carried
    for messages in carried:
        assert [message["role"] for message in messages[:3]] == ["user", "assistant", "user"]
        assert all(message["content"] == "tick tick tick " for message in messages[1::2])


TRACE = """
{"timestamp": 1000, "input_length": 60, "output_length": 5, "hash_ids": [1, 2]}
{"timestamp": 1100, "input_length": 64, "output_length": 7, "hash_ids": [1, 2]}
{"timestamp": 1400, "input_length": 40, "output_length": 3, "hash_ids": [9]}
{"timestamp": 1800, "input_length": 30, "output_length": 2}
"""


def test_a_trace_is_replayed_with_its_times_and_lengths(triton: "Triton", tmp_path: Path) -> None:
    """Twice as fast: half the distances, the recorded lengths by the server's count, shared blocks as shared text."""
    (tmp_path / "trace.jsonl").write_text(TRACE.lstrip())
    arguments = ["--model", "paced", "--trace", tmp_path / "trace.jsonl", "--speedup", 2, "--warmup-requests", 0]
    before = len(triton.seen())
    done = run(triton, tmp_path / "out", [*arguments, "--set", "load.block_tokens=32"])
    records = in_order(done.records)
    assert due_ms(records) == pytest.approx([0, 50, 200, 400])
    assert [(record.num_input_tokens, record.num_output_tokens) for record in records] == [
        (60, 5), (64, 7), (40, 3), (30, 2),
    ]  # fmt: skip
    assert done.report["stages"][0]["rate"] == pytest.approx(4 / 0.4)
    texts = {
        seen["max_tokens"]: seen["text_input"].split() for seen in triton.seen()[before:] if seen["max_tokens"] > 1
    }
    assert texts[5] == texts[7][:60]
    assert texts[3][:20] != texts[5][:20]


def test_a_sweep_climbs_until_the_objective_breaks(triton: "Triton", tmp_path: Path) -> None:
    """A wide objective is kept to the top; one that nobody keeps breaks at once, and halving finds no knee."""
    arguments = ["--model", "paced", "--input-tokens", 5, "--output-tokens", 2, "--requests", 6, "--sweep", "users"]
    done = run(triton, tmp_path / "wide", [*arguments, "--slo", "ttft_ms=10000", "--set", "load.most=4"])
    assert [stage["users"] for stage in done.report["stages"]] == [1, 2, 4]
    assert [stage["attainment"] for stage in done.report["stages"]] == [1.0] * 3
    assert done.report["knee"] == 2
    done = run(triton, tmp_path / "narrow", [*arguments, "--slo", "ttft_ms=1", "--set", "load.start=4"])
    assert [stage["users"] for stage in done.report["stages"]] == [4, 2, 1]
    assert [stage["attainment"] for stage in done.report["stages"]] == [0.0] * 3
    assert done.report["knee"] is None


@pytest.mark.timeout(120)
def test_a_sweep_finds_the_knee_of_a_server_with_two_places(twin: "TwinServer", tmp_path: Path) -> None:
    """A third user waits for one of two places, which the objective does not allow: two are the knee."""
    arguments = ["--model", "tight", "--input-tokens", 5, "--output-tokens", 12, "--requests", 24, "--sweep", "users"]
    done = run(twin, tmp_path / "out", [*arguments, "--slo", "ttft_ms=55", "--set", "load.attainment=0.8"])
    stages = done.report["stages"]
    assert [stage["users"] for stage in stages] == [1, 2, 4, 3]
    assert [stage["attainment"] >= 0.8 for stage in stages] == [True, True, False, False]
    assert stages[done.report["knee"]]["users"] == 2


def test_warm_up_by_time_is_the_stages_own_load(triton: "Triton", tmp_path: Path) -> None:
    """Half a second of the open loop comes first, and no figure counts it."""
    before = triton.counts()["requests"]
    arguments = ["--model", "paced", "--rate", 40, "--arrivals", "constant", "--requests", 10, "--warmup-s", 0.5]
    done = run(triton, tmp_path / "out", [*arguments, "--prompts", write_prompts(tmp_path, "hello")])
    assert len(done.records) == 10
    assert triton.counts()["requests"] - before == 10 + 20


SAMPLING = """
load = { shape = "closed", users = 1, requests = 12 }
warmup_requests = 0

[[tasks]]
model = "paced"
input_tokens = 5
output_tokens = 2
sampling = { temperature = 0.5, top_p = 0.25 }

[[tasks]]
name = "refused"
model = "paced"
input_tokens = 5
output_tokens = 2
sampling = { min_tokens = 4294967296 }
"""


def test_sampling_reaches_the_server(triton: "Triton", tmp_path: Path) -> None:
    """What a task says of sampling is in its requests; what the client refuses is an error by name."""
    done = run_file(triton, tmp_path, SAMPLING)
    assert (triton.seen()[-1]["temperature"], triton.seen()[-1]["top_p"]) == (0.5, 0.25)
    tasks = done.report["stages"][0]["tasks"]
    assert tasks["refused"]["errors"] == {"InvalidArgumentError": tasks["refused"]["requests"]}
    assert tasks["generate"]["errors"] == {}
    assert "min_tokens is 4294967296" in done.stdout
