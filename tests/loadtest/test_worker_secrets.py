"""Workers without the run's secret are kept out, and told why; those who have it work as ever."""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.loadtest.command import finish, start, write_prompts
from tests.loadtest.test_workers import free_port, workers_of

from fathom_loadtest.commands.run import _worker_plan, add_arguments
from fathom_loadtest.workers.plan import ANY_HOST, WorkerPlan
from fathom_loadtest.workers.secret import VARIABLE, WorkerSecret

if TYPE_CHECKING:
    from tests.loadtest.twin_server import TwinServer

OFF = ["--metrics-url", "off"]
SECRET = "a secret of the house"


def join(address: str, *flags: object) -> "subprocess.Popen[str]":
    """Start a worker by hand."""
    command = [sys.executable, "-m", "fathom_loadtest", "worker", address, *map(str, flags)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def complaint(worker: "subprocess.Popen[str]") -> str:
    """What a worker says that is not taken: one line, and status 2."""
    _, stderr = worker.communicate(timeout=60)
    assert worker.returncode == 2
    assert stderr.count("\n") == 1
    return stderr


@pytest.mark.parametrize("master_has_one", [True, False])
def test_only_workers_with_the_runs_own_secret_take_part(
    twin: "TwinServer", tmp_path: Path, master_has_one: bool
) -> None:
    """Two with another secret, or none, are turned away by name of the remedy; the run goes on with the right one."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text(SECRET + "\n")
    wrong.write_text(SECRET[::-1])
    address = f"127.0.0.1:{free_port()}"
    own = ["--secret-file", right] if master_has_one else []
    prompts = write_prompts(tmp_path, "one two three", "four")
    arguments = ["--model", "chat", "--users", 2, "--requests", 8, "--prompts", prompts.name, *OFF, *own]
    process = start(twin, tmp_path / "out", [*arguments, "--expect-workers", 1, "--master-bind", address])
    workers = [
        join(address, "--secret-file", wrong),
        join(address, *([] if master_has_one else ["--secret-file", right])),
    ]
    try:
        for worker in workers:
            said = complaint(worker)
            assert said.startswith(f"error: the master at {address} does not take this worker, which has ")
            assert "give both the same --secret-file" in said
        workers.append(join(address, *own))
        done = finish(process, tmp_path / "out")
        assert done.status == 0, done.stderr
        assert len(done.records) == 8
        assert workers[-1].wait(timeout=30) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def test_the_workers_of_one_host_have_a_secret_that_nobody_else_has(twin: "TwinServer", tmp_path: Path) -> None:
    """A stranger who finds the port of a run with its own workers is turned away, and they work on."""
    arguments = ["--model", "chat", "--users", 2, "--duration-s", 50, "--input-tokens", 12, "--workers", 1, *OFF]
    process = start(twin, tmp_path / "out", arguments)
    records = tmp_path / "out" / "requests.jsonl"
    while not records.exists() or not records.stat().st_size:
        assert process.poll() is None
        time.sleep(0.05)
    listening = [each for each in psutil.Process(process.pid).net_connections("tcp") if each.status == "LISTEN"]
    [address] = [f"{each.laddr.ip}:{each.laddr.port}" for each in listening]
    assert "does not take this worker, which has no secret" in complaint(join(address))
    assert len(workers_of(process)) == 1
    process.terminate()
    done = finish(process, tmp_path / "out")
    assert done.report["ending"] == "interrupted"
    assert done.figures()["failed"] == 0


def plan(*arguments: str) -> WorkerPlan:
    """The workers that a run's flags ask for."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    found = _worker_plan(parser.parse_args([*arguments]))
    assert found is not None
    return found


def test_without_a_secret_the_master_is_for_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a secret, of a file or the environment, opens the default address to others, and an open one is known."""
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "secret").write_text(SECRET)
    alone = plan("--expect-workers", "2")
    assert (alone.host, alone.port, alone.secret, alone.is_open) == ("127.0.0.1", 5557, None, False)
    assert plan("--expect-workers", "2", "--master-bind", "0.0.0.0:1").is_open
    shared = plan("--expect-workers", "2", "--secret-file", str(tmp_path / "secret"))
    assert (shared.host, shared.secret, shared.is_open) == (ANY_HOST, WorkerSecret(SECRET), False)
    monkeypatch.setenv(VARIABLE, SECRET)
    assert plan("--expect-workers", "2").secret == WorkerSecret(SECRET)
    mine = plan("--workers", "2").secret
    assert mine != WorkerSecret(SECRET), "a run's own workers have one of their own"
    assert SECRET not in repr(shared)
