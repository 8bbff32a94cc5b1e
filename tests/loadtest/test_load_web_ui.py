"""Locust's own web UI drives the scenario's requests."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.loadtest.command import finish, start, write_prompts

if TYPE_CHECKING:
    from conftest import Triton


def fetch(port: int, path: str, **form: object) -> str:
    """The answer to a GET, or with a form to a POST."""
    data = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=data, timeout=10) as answer:
        return answer.read().decode()


def wait_until_served(port: int, process: "subprocess.Popen[str]") -> None:
    """Wait until the UI answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            assert "<title>Locust</title>" in fetch(port, "/")
            return
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)


def wait_for(port: int, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What the UI shows once it is as wished; Locust looks again every two seconds."""
    deadline = time.monotonic() + 30
    while not is_so(shown := json.loads(fetch(port, "/stats/requests"))):
        assert time.monotonic() < deadline, shown
        time.sleep(0.1)
    return shown


def total(shown: dict[str, Any]) -> dict[str, Any]:
    """All requests together."""
    row: dict[str, Any] = shown["stats"][-1]
    return row


def test_the_web_ui_starts_and_stops_stages(triton: "Triton", tmp_path: Path) -> None:
    """Two tests started there are two stages of the report, whose requests are those that the UI counted."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    output = tmp_path / "out"
    prompts = write_prompts(tmp_path, "hello there", "fail now")
    process = start(triton, output, ["--model", "paced", "--prompts", prompts, "--web-ui", port])
    try:
        wait_until_served(port, process)
        shown = []
        for users in (2, 4):
            assert json.loads(fetch(port, "/swarm", user_count=users, spawn_rate=users))["success"]
            wait_for(port, lambda now, users=users: now["user_count"] == users and total(now)["num_requests"] >= 12)
            fetch(port, "/stop", now=True)
            shown.append(total(wait_for(port, lambda now: now["state"] == "stopped" and now["user_count"] == 0)))
        process.send_signal(signal.SIGINT)
    except BaseException:
        process.kill()
        raise
    done = finish(process, output)
    assert done.status == 0, done.stderr
    assert f"http://127.0.0.1:{port}" in done.stderr
    assert [stage["users"] for stage in done.report["stages"]] == [2, 4]
    assert [done.figures(stage)["requests"] for stage in (0, 1)] == [total["num_requests"] for total in shown]
    assert [done.figures(stage)["failed"] for stage in (0, 1)] == [total["num_failures"] for total in shown]
    assert done.report["ending"] == "completed"


def test_a_taken_port_is_one_line(triton: "Triton", tmp_path: Path) -> None:
    """Nobody can listen where somebody does, and the message names the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "fathom_loadtest", "run", "--url", triton.url, "--model", "paced"]
        command += ["--prompts", str(write_prompts(tmp_path, "hello")), "--web-ui", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: --web-ui 127.0.0.1:{port}: cannot be listened on")
    assert "Traceback" not in done.stderr
