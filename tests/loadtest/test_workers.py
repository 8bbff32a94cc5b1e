"""Load from several processes: parts that do not overlap, merged exactly, and nobody lost without a word."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import psutil
import pytest
from tests.loadtest.command import finish, run, start, write_prompts
from tests.loadtest.scenarios import closed_loop

from fathom_loadtest.cli import main
from fathom_loadtest.metrics import stage_figures
from fathom_loadtest.record import RequestRecord
from fathom_loadtest.recorder import Recorder
from fathom_loadtest.scenario import Slo
from fathom_loadtest.workers.outgoing import OutgoingRecorder
from fathom_loadtest.workers.wire import part, read_tallies

if TYPE_CHECKING:
    from tests.loadtest.twin_server import TwinServer

OFF = ["--metrics-url", "off"]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port: int = opened.getsockname()[1]
    return port


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The worker processes that a run has started."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if "worker" in child.cmdline()]


def test_the_parts_of_two_workers_are_the_requests_of_one_process(twin: "TwinServer", tmp_path: Path) -> None:
    """Every request is sent once, by one of both, as one process would send it; the figures are of all of them."""
    lengths = ["--input-tokens", 30, "--input-tokens-stddev", 8, "--output-tokens", 8, "--output-tokens-stddev", 2]
    arguments = ["--model", "chat", "--users", "3,1", "--requests", 30, "--seed", 4, *lengths, *OFF]
    done = run(twin, tmp_path / "two", [*arguments, "--workers", 2, "--slo", "ttft_ms=1000"])
    assert done.status == 0, done.stderr
    alone = run(twin, tmp_path / "alone", arguments)
    for stage in (0, 1):
        mine = sorted((each for each in done.records if each.stage == stage), key=lambda each: each.index)
        one = sorted((each for each in alone.records if each.stage == stage), key=lambda each: each.index)
        assert [each.index for each in mine] == list(range(30))
        sizes = [(each.num_input_tokens, each.num_output_tokens) for each in mine]
        assert sizes == [(each.num_input_tokens, each.num_output_tokens) for each in one]
        assert {each.worker for each in mine} == ({0, 1} if stage == 0 else {0})
        opened_ns, closed_ns = (done.report["stages"][stage][name] for name in ("opened_ns", "closed_ns"))
        assert all(opened_ns <= each.start_ns <= each.end_ns <= closed_ns for each in mine)
        expected = stage_figures(mine, Slo.parse("ttft_ms=1000"))
        for name in ("ttft_ms", "itl_ms", "request_latency_ms"):
            found = done.figures(stage)[name]
            assert found["count"] == getattr(expected, name).count
            assert found["avg"] == pytest.approx(getattr(expected, name).avg)
            assert found["p95"] == pytest.approx(getattr(expected, name).p95)
        assert done.figures(stage)["goodput"] == pytest.approx(expected.goodput)
        assert done.report["stages"][stage]["unfinished"] == 0
    assert [stage["generator"]["workers"] for stage in done.report["stages"]] == [2, 1]


def test_an_open_loop_is_shared_without_overlap(twin: "TwinServer", tmp_path: Path) -> None:
    """Each worker has every other arrival of the same sequence of times."""
    arguments = ["--model", "minilm", "--task", "embed", "--rate", 60, "--requests", 90, "--input-tokens", 6, *OFF]
    done = run(twin, tmp_path / "two", [*arguments, "--workers", 2])
    alone = run(twin, tmp_path / "alone", arguments)
    assert done.status == 0, done.stderr

    def dues(finished: object) -> list[float]:
        opened_ns = finished.report["stages"][0]["opened_ns"]  # type: ignore[attr-defined]
        ordered = sorted(finished.records, key=lambda each: each.index)  # type: ignore[attr-defined]
        return [(each.due_ns - opened_ns) / 1e9 for each in ordered]

    assert dues(done) == pytest.approx(dues(alone), abs=1e-6)
    assert all(each.worker == each.index % 2 for each in done.records)
    assert done.report["stages"][0]["figures"]["due_request_latency_ms"]["count"] == 90


def test_workers_elsewhere_bring_nothing_but_themselves(twin: "TwinServer", tmp_path: Path) -> None:
    """Two workers that were started by hand, in another folder, get the scenario with its prompts from the master."""
    port, elsewhere = free_port(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    prompts = write_prompts(tmp_path, "one two three", "four five", "six")
    arguments = ["--model", "chat", "--users", 4, "--requests", 20, "--prompts", prompts.name, *OFF]
    process = start(twin, tmp_path / "out", [*arguments, "--expect-workers", 2, "--master-bind", f"127.0.0.1:{port}"])
    command = [sys.executable, "-m", "fathom_loadtest", "worker", f"127.0.0.1:{port}"]
    others = [subprocess.Popen(command, cwd=elsewhere, stdin=subprocess.DEVNULL) for _ in range(2)]
    try:
        done = finish(process, tmp_path / "out")
        assert done.status == 0, done.stderr
        assert sorted(each.index for each in done.records) == list(range(20))
        assert {each.worker for each in done.records} == {0, 1}
        assert f"waiting for 2 workers at 127.0.0.1:{port}" in done.stderr
        assert [other.wait(timeout=30) for other in others] == [0, 0]
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_a_lost_worker_ends_the_run_with_what_there_is(twin: "TwinServer", tmp_path: Path) -> None:
    """One of three is killed: the run says which, exits 1, and the report holds what had come, also from the others."""
    output = tmp_path / "out"
    arguments = ["--model", "chat", "--users", 6, "--duration-s", 50, "--input-tokens", 12, "--workers", 3, *OFF]
    process = start(twin, output, arguments)
    records = output / "requests.jsonl"
    while not records.exists() or records.stat().st_size < 8192:
        assert process.poll() is None
        time.sleep(0.05)
    victim, *rest = workers_of(process)
    victim.kill()
    done = finish(process, output)
    assert done.status == 1
    assert done.report["ending"] == "worker_lost"
    assert re.search(rf"error: worker \d \(.*process {victim.pid}\) was lost during the run", done.stderr)
    assert done.figures()["succeeded"] == sum(each.succeeded for each in done.records) > 0
    assert not any(worker.is_running() for worker in rest)


def test_an_interrupt_reaches_the_workers(twin: "TwinServer", tmp_path: Path) -> None:
    """Requests under way are cancelled, the report is written, the status is 130, no process is left."""
    output = tmp_path / "out"
    arguments = ["--model", "chat", "--users", 4, "--duration-s", 50, "--input-tokens", 12, "--workers", 2, *OFF]
    process = start(twin, output, arguments)
    records = output / "requests.jsonl"
    while not records.exists() or records.stat().st_size < 8192:
        assert process.poll() is None
        time.sleep(0.05)
    workers = workers_of(process)
    process.send_signal(signal.SIGINT)
    done = finish(process, output)
    assert done.status == 130
    assert done.report["ending"] == "interrupted"
    assert len(workers) == 2
    assert not any(worker.is_running() for worker in workers)
    assert "Traceback" not in done.stderr


def test_workers_end_with_the_run_that_started_them(twin: "TwinServer", tmp_path: Path) -> None:
    """A run that is killed leaves no worker behind."""
    arguments = ["--model", "chat", "--users", 2, "--duration-s", 50, "--input-tokens", 12, "--workers", 2, *OFF]
    process = start(twin, tmp_path / "out", arguments)
    try:
        while len(workers_of(process)) < 2 or not (tmp_path / "out" / "requests.jsonl").stat().st_size:
            assert process.poll() is None
            time.sleep(0.05)
        workers = workers_of(process)
    finally:
        process.kill()
        process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []


def test_records_are_moved_to_the_masters_clock() -> None:
    """A worker whose clock shows another time sends its records as the master's clock would have timed them."""
    recorder, merged = OutgoingRecorder(), Recorder()
    recorder.shift_ns = -(10**15)
    times = tuple(10**15 + at for at in (50, 70))
    recorder.add(RequestRecord(0, 0, 10**15 + 10, times[-1], times, (1, 1), 3, 2, "stop", intended_ns=10**15 + 5))
    batch = msgpack.loads(msgpack.dumps(recorder.take()))
    assert recorder.take() is None
    merged.merge(0, batch["lines"], read_tallies(batch["tallies"], closed_loop()))
    (moved,) = merged
    assert (moved.start_ns, moved.end_ns, moved.response_ns, moved.intended_ns) == (10, 70, (50, 70), 5)
    assert merged.tally(0).first_ns == 10
    assert merged.sample(0) == merged.recent() == [moved]


@pytest.mark.parametrize(("number", "of"), [(7, 3), (3, 3), (512, 5), (1, 1)])
def test_parts_add_up(number: int, of: int) -> None:
    """No user is lost or counted twice, and no part is larger than another by more than one."""
    parts = [part(number, place, of) for place in range(of)]
    assert sum(parts) == number
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["worker", "nowhere"], "'nowhere' is no address; it must be HOST:PORT"),
        (["worker", "host:99999"], "'host:99999' is no address"),
        (["run", "--model", "m", "--input-tokens", "5", "--workers", "0"], "0 workers are out of range"),
        (["run", "--model", "m", "--input-tokens", "5", "--workers", "2", "--expect-workers", "2"], "give one of them"),
        (
            ["run", "--model", "m", "--input-tokens", "5", "--workers", "2", "--secret-file", "s"],
            "--secret-file needs --expect-workers",
        ),
        (["worker", "h:1", "--secret-file", "no/such/file"], "--secret-file no/such/file: cannot be read"),
        (
            ["worker", "h:1", "--secret-file", "/dev/null"],
            "the workers' secret has 0 characters; it must have 16 or more",
        ),
        (
            ["run", "--model", "m", "--input-tokens", "5", "--master-bind", "h:1"],
            "--master-bind needs --expect-workers",
        ),
        (["run", "--model", "m", "--input-tokens", "5", "--workers", "2", "--web-ui"], "--web-ui runs its users"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what is wrong, and the status is 2."""
    assert main(arguments) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert complaint in stderr
    assert stderr.count("\n") == 1


def test_a_port_that_is_taken_is_named(twin: "TwinServer", tmp_path: Path) -> None:
    """The address and the remedy are in the message."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["--model", "chat", "--input-tokens", 5, "--expect-workers", 1, "--master-bind", address]
        process = start(twin, tmp_path / "out", arguments)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert (
        stderr.splitlines()[-1]
        == f"error: --master-bind {address}: cannot be listened on; it may be taken, choose another one"
    )
