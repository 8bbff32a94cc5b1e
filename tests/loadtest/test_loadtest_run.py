"""Whole runs against a real Triton: what the report counts is what the server did."""

import json
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.loadtest.command import finish, run, start, write_prompts

if TYPE_CHECKING:
    from conftest import Triton


def difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """What was counted in between."""
    return {name: after[name] - before[name] for name in after}


def test_the_report_counts_exactly_what_the_server_did(triton: "Triton", tmp_path: Path) -> None:
    """With 4 and 8 users, requests and token totals equal the model's own and Triton's statistics."""
    prompts = write_prompts(tmp_path, "one two three", "a b c d e f g", "just")
    before, triton_before = triton.counts(), triton.statistics("paced")
    arguments = ["--model", "paced", "--users", "4,8", "--requests", 36, "--prompts", prompts, "--warmup-requests", 0]
    done = run(triton, tmp_path / "out", [*arguments, "--output-tokens", 20, "--output-tokens-stddev", 6])
    assert done.status == 0, done.stderr
    assert done.report["ending"] == "completed"
    assert [stage["users"] for stage in done.report["stages"]] == [4, 8]
    assert [done.figures(stage)["requests"] for stage in (0, 1)] == [36, 36]
    server = difference(triton.counts(), before)
    totals = {
        name: sum(done.figures(stage)[f"total_{name}"] for stage in (0, 1))
        for name in ("input_tokens", "output_tokens")
    }
    assert server == {"requests": 72, "answered": 72, **totals}
    seen = triton.statistics("paced")["inference_stats"]["success"]["count"]
    assert int(seen) - int(triton_before["inference_stats"]["success"]["count"]) == 72
    assert [record.num_output_tokens for record in done.records] == [sum(r.response_tokens) for r in done.records]
    assert any(len(record.response_ns) < record.num_output_tokens for record in done.records)
    assert len({record.num_output_tokens for record in done.records}) > 3


def test_the_figures_follow_from_the_raw_records(triton: "Triton", tmp_path: Path) -> None:
    """report.json is recomputed from requests.jsonl by formulas written here, and no TTFT undercuts the model's own."""
    arguments = ["--model", "paced", "--users", 4, "--requests", 40, "--input-tokens", 24, "--output-tokens", 12]
    done = run(triton, tmp_path / "out", arguments)
    figures, good = done.figures(), done.records
    assert len(good) == figures["succeeded"] == 40
    ttfts = [(one.response_ns[0] - one.start_ns) / 1e6 for one in good]
    latencies = [(one.response_ns[-1] - one.start_ns) / 1e6 for one in good]
    itls = [(latency - ttft) / 11 for latency, ttft in zip(latencies, ttfts, strict=True)]
    span_s = (max(one.response_ns[-1] for one in good) - min(one.start_ns for one in good)) / 1e9
    for name, values in (("ttft_ms", ttfts), ("request_latency_ms", latencies), ("itl_ms", itls)):
        assert figures[name]["avg"] == pytest.approx(statistics.fmean(values))
        assert figures[name]["p50"] == pytest.approx(statistics.median(values))
        assert figures[name]["max"] == pytest.approx(max(values))
    assert figures["duration_s"] == pytest.approx(span_s)
    assert figures["output_token_throughput"] == pytest.approx(40 * 12 / span_s)
    assert figures["inter_chunk_latency_ms"]["count"] == sum(len(one.response_ns) - 1 for one in good)
    assert min(ttfts) >= triton.ttft_ms
    assert set(figures) >= set(done.report["definitions"])


def test_synthetic_prompts_have_the_wished_length_by_the_servers_count(triton: "Triton", tmp_path: Path) -> None:
    """Every conversation has 40 tokens as the server counts them, its template's tokens among them."""
    arguments = ["--model", "paced", "--task", "chat", "--requests", 6, "--users", 2, "--input-tokens", 40]
    done = run(triton, tmp_path / "out", arguments)
    assert {record.num_input_tokens for record in done.records} == {40}
    assert done.figures()["input_tokens"]["avg"] == 40.0


def test_warm_up_is_not_counted(triton: "Triton", tmp_path: Path) -> None:
    """Three users warm up with two requests each, which the server sees and the report does not."""
    prompts = write_prompts(tmp_path, "hello")
    before = triton.counts()
    arguments = ["--model", "paced", "--users", 3, "--requests", 5, "--warmup-requests", 2, "--prompts", prompts]
    done = run(triton, tmp_path / "out", arguments)
    assert (done.figures()["requests"], len(done.records)) == (5, 5)
    assert difference(triton.counts(), before)["requests"] == 3 * 2 + 5


def test_a_stage_by_duration_finishes_what_it_started(triton: "Triton", tmp_path: Path) -> None:
    """No request starts after the duration, and those under way are waited for and counted."""
    prompts = write_prompts(tmp_path, "hello there")
    before = triton.counts()
    arguments = ["--model", "paced", "--users", 4, "--duration-s", 1, "--warmup-requests", 0, "--prompts", prompts]
    done = run(triton, tmp_path / "out", arguments)
    stage = done.report["stages"][0]
    assert difference(triton.counts(), before)["answered"] == len(done.records) > 4
    assert max(record.start_ns for record in done.records) - stage["opened_ns"] < 2_000_000_000
    assert stage["unfinished"] == 0


def test_a_seed_repeats_the_requests(triton: "Triton", tmp_path: Path) -> None:
    """The n-th request has the same length and the same limit in both runs, however many users share the work."""

    def sizes(users: int) -> list[tuple[int, int]]:
        lengths = ["--input-tokens", 40, "--input-tokens-stddev", 10, "--output-tokens", 6, "--output-tokens-stddev", 2]
        arguments = ["--model", "paced", "--users", users, "--requests", 12, "--seed", 7, *lengths]
        done = run(triton, tmp_path / f"out-{users}", arguments)
        ordered = sorted(done.records, key=lambda record: record.index)
        return [(record.num_input_tokens, record.num_output_tokens) for record in ordered]

    assert sizes(2) == sizes(5)


def test_errors_are_counted_by_kind_and_kept_out_of_latencies(triton: "Triton", tmp_path: Path) -> None:
    """Refused, broken-off and late requests each have their kind, their message and their number."""
    texts = ["fine one", "fail now", "break now", "hang now"]
    prompts = write_prompts(tmp_path, *texts)
    arguments = ["--model", "paced", "--users", 4, "--requests", 12, "--prompts", prompts, "--warmup-requests", 0]
    done = run(triton, tmp_path / "out", [*arguments, "--timeout-s", 2, "--fail-on-error-rate", 0.5])
    figures = done.figures()
    assert figures["errors"] == {"InvalidRequestError": 3, "ServerError": 3, "DeadlineExceededError": 3}
    assert (figures["failed"], figures["error_rate"]) == (9, 0.75)
    assert figures["request_latency_ms"]["count"] == figures["succeeded"] == 3
    messages = Counter(record.error_message for record in done.records if record.error_kind == "InvalidRequestError")
    assert all("the text asks for a failure" in str(message) for message in messages)
    assert all(record.response_ns for record in done.records if record.error_kind == "ServerError")
    assert done.status == 1
    assert "75 % of the requests failed; --fail-on-error-rate allows 50 %" in done.stderr
    assert "3 x ServerError" in done.stdout


def test_a_run_in_which_everything_fails_exits_1(triton: "Triton", tmp_path: Path) -> None:
    """There is a report without latencies, and the reason in one line."""
    prompts = write_prompts(tmp_path, "fail")
    done = run(triton, tmp_path / "out", ["--model", "paced", "--requests", 3, "--prompts", prompts])
    assert done.status == 1
    assert done.stderr.splitlines()[-1] == "error: all 3 requests failed"
    assert done.figures()["ttft_ms"] is None


def test_an_unknown_model_is_named(triton: "Triton", tmp_path: Path) -> None:
    """Nothing is sent, nothing is written, and the exit status is 1."""
    process = start(triton, tmp_path / "out", ["--model", "absent", "--input-tokens", 5])
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, "")
    assert not (tmp_path / "out").exists()
    assert stderr.startswith(f"error: cannot test 'absent' at {triton.url}: ")


def test_a_model_of_another_kind_is_refused_in_one_line(triton: "Triton", tmp_path: Path) -> None:
    """An encoder asked to generate refuses already the words that synthetic prompts are measured with."""
    process = start(triton, tmp_path / "out", ["--model", "vectors", "--input-tokens", 5])
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.startswith("error: 'vectors' refuses a text of synthetic words: ")
    assert stderr.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_refused_before_the_run(triton: "Triton", tmp_path: Path) -> None:
    """A file stands where the folder should be: one line, exit status 2, and no request was sent."""
    (tmp_path / "out").write_text("")
    before = triton.counts()
    process = start(triton, tmp_path / "out", ["--model", "paced", "--input-tokens", 5])
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stderr == f"error: --output {tmp_path / 'out'}: cannot be written (File exists); name another folder\n"
    assert triton.counts() == before


def test_a_record_that_cannot_be_written_ends_the_run(triton: "Triton", tmp_path: Path) -> None:
    """Records are written while answers are waited for; a full disk ends the run all the same, by name, at once."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "requests.jsonl").symlink_to("/dev/full")
    arguments = ["--model", "vectors", "--task", "embed", "--users", 2, "--duration-s", 600]
    process = start(triton, tmp_path / "out", [*arguments, "--prompts", write_prompts(tmp_path, "a full disk")])
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stderr.startswith(f"error: {tmp_path / 'out' / 'requests.jsonl'}: a record cannot be written (No space left")


def test_embeddings_are_measured_without_figures_of_a_stream(triton: "Triton", tmp_path: Path) -> None:
    """Requests and input tokens equal Triton's statistics, and there is latency but no TTFT."""
    before = triton.statistics("vectors")
    arguments = ["--model", "vectors", "--task", "embed", "--users", "4,8", "--requests", 60, "--warmup-requests", 0]
    done = run(triton, tmp_path / "out", [*arguments, "--prompts", write_prompts(tmp_path, "one two", "three")])
    assert done.status == 0, done.stderr
    seen = int(triton.statistics("vectors")["inference_count"]) - int(before.get("inference_count", 0))
    assert seen == sum(done.figures(stage)["requests"] for stage in (0, 1)) == 120
    assert done.figures()["total_input_tokens"] == 30 * 4 + 30 * 3
    assert done.figures()["request_latency_ms"]["count"] == 60
    assert (done.figures()["ttft_ms"], done.figures()["output_token_throughput"]) == (None, None)


@pytest.mark.parametrize(("load", "most_failed"), [(["--users", "4,8"], 8), (["--rate", "40,80"], 400)])
def test_a_server_that_dies_ends_the_run_with_what_it_has(
    start_triton: "Callable[[Path], Triton]", tmp_path: Path, load: list[str], most_failed: int
) -> None:
    """The run ends early, says so, exits 1, and the report holds the requests before and those that broke."""
    server = start_triton(tmp_path / "server")
    output = tmp_path / "out"
    arguments = ["--model", "paced", *load, "--duration-s", 50, "--input-tokens", 12]
    process = start(server, output, arguments)
    try:
        while server.counts()["answered"] < 60:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        server.kill()
    done = finish(process, output)
    assert done.status == 1
    assert done.report["ending"] == "server_lost"
    assert "error: the server was lost during the run" in done.stderr
    assert len(done.report["stages"]) == 1
    assert done.figures()["succeeded"] > 0
    assert set(done.figures()["errors"]) <= {"ServerUnavailableError", "StreamBrokenError"}
    assert 1 <= done.figures()["failed"] <= most_failed
    assert "The run ended early" in (output / "report.html").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_run_and_keeps_the_report(
    triton: "Triton", tmp_path: Path, number: signal.Signals
) -> None:
    """Requests under way are cancelled and counted apart, the report is written, the exit status is 130."""
    before = triton.counts()["answered"]
    output = tmp_path / "out"
    prompts = write_prompts(tmp_path, "hello there")
    process = start(triton, output, ["--model", "paced", "--users", 4, "--duration-s", 50, "--prompts", prompts])
    while triton.counts()["answered"] < before + 30:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    done = finish(process, output)
    assert done.status == 130
    assert done.report["ending"] == "interrupted"
    assert done.figures()["succeeded"] == len(done.records) > 0
    assert 0 < done.report["stages"][0]["unfinished"] <= 4
    assert "Traceback" not in done.stderr


LOCUSTFILE = """
import json, sys
from pathlib import Path
from fathom_loadtest.process import make_cooperative
make_cooperative()
from locust.env import Environment
from fathom_loadtest.content.files import ScenarioFiles
from fathom_loadtest.load.plan import plan
from fathom_loadtest.phase import Phase
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.scenario import read_scenario
from fathom_loadtest.target import Connections, ServerWatch
from fathom_loadtest.users.load_user import LoadUser

scenario = read_scenario(Path(sys.argv[1]))
stage = next(plan(scenario.load))

class MyUser(LoadUser):
    phase = Phase("mine", stage, ScenarioFiles.read(scenario).workload(None), Recorder(), stage.users)
    watch = ServerWatch()
    connections = Connections(scenario.target, stage.users)

environment = Environment(user_classes=[MyUser])
runner = environment.create_local_runner()
runner.start(3, spawn_rate=3)
runner.spawning_greenlet.join()
runner.user_greenlets.join()
runner.quit()
total = environment.stats.total
print(json.dumps([total.num_requests, total.num_failures, len(MyUser.phase.recorder)]))
"""
SCENARIO = """
target.url = "{url}"
load = {{ shape = "closed", users = 3, requests = 9 }}
tasks = [{{ model = "paced", prompts = "prompts.jsonl" }}]
"""


def test_locusts_own_statistics_see_every_request(triton: "Triton", tmp_path: Path) -> None:
    """The users fire Locust's request event, so that its listeners and exporters count what the recorder counts."""
    write_prompts(tmp_path, "fine", "also fine", "fail")
    (tmp_path / "mine.py").write_text(LOCUSTFILE)
    (tmp_path / "mine.toml").write_text(SCENARIO.format(url=triton.url))
    command = [sys.executable, str(tmp_path / "mine.py"), str(tmp_path / "mine.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert json.loads(done.stdout) == [9, 3, 9], done.stderr
