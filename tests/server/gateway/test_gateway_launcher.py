"""``fathom-serve --openai-port``: a gateway that starts and stops with Triton; and ``fathom-gateway`` alone."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.gateway_process import GatewayProcess
from tests.serving import FathomServe

STAND_INS = Path("tests/client/repository").resolve()
PATIENCE_S = 30.0


def gateway_pid(port: int) -> int:
    """The process that serves a port as a gateway."""
    wanted = ["fathom_server.gateway", "--port", str(port)]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if all(each in arguments for each in wanted):
                return int(entry.name)
    raise AssertionError(f"no gateway on port {port}")


def wait_live(port: int) -> None:
    """Wait until a gateway answers."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health/live")
            assert connection.getresponse().status == 200
            return
        except OSError:
            assert time.monotonic() < deadline, "the gateway did not come back"
            time.sleep(0.05)
        finally:
            connection.close()


def chat(port: int, text: str, delay_s: float) -> http.client.HTTPResponse:
    """Begin a streamed chat whose words come so slowly."""
    body = {"model": "chat", "messages": [{"role": "user", "content": json.dumps({"delay_s": delay_s}) + "\n" + text}]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request(
        "POST", "/v1/chat/completions", json.dumps({**body, "stream": True}), {"Content-Type": "application/json"}
    )
    return connection.getresponse()


def test_the_gateway_lives_and_stops_with_triton(serve: Callable[..., FathomServe], tmp_path: Path) -> None:
    """A killed gateway comes back; on SIGTERM no connection is taken, and a running stream comes whole."""
    config = tmp_path / "gateway.toml"
    config.write_text('requests_per_minute = 7\nport = 1\ntarget = "elsewhere:1"\n')
    server = serve(STAND_INS, "--openai-port", "--openai-config", str(config), "--drain-s", "20")
    port = server.openai_port
    os.kill(gateway_pid(port), signal.SIGKILL)
    wait_live(port)
    assert "the gateway ended with status -9; it is started again" in server.stderr()
    answer = chat(port, "word " * 20, delay_s=0.05)
    assert (answer.status, answer.headers["x-ratelimit-limit-requests"]) == (200, "7")
    begun = answer.readline()
    stopped: list[int] = []
    stopping = threading.Thread(target=lambda: stopped.append(server.stop()))
    stopping.start()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            break
        assert time.monotonic() < deadline, "the gateway takes connections during the stop"
        time.sleep(0.01)
    body = begun + answer.read()
    assert body.endswith(b"data: [DONE]\n\n")
    assert body.count(b'"content":"word ') == 20
    stopping.join(PATIENCE_S)
    assert stopped == [0]
    with pytest.raises(AssertionError, match="no gateway"):
        gateway_pid(port)


def test_what_does_not_end_in_time_is_cut_off(triton: FathomServe, tmp_path: Path) -> None:
    """A gateway whose answers outlast its stop ends at the deadline with status 1; a second signal ends it at once."""
    for drain_s, signals in ((0.5, 1), (30, 2)):
        with GatewayProcess(triton.url, tmp_path / f"gateway-{signals}", {"drain_s": drain_s}) as gateway:
            answer = chat(gateway.port, "word " * 1000, delay_s=0.05)
            assert answer.readline().startswith(b"data: ")
            assert gateway.process is not None
            for _ in range(signals):
                gateway.process.send_signal(signal.SIGTERM)
                time.sleep(0.3)
            assert gateway.process.wait(PATIENCE_S) == 1


def run(module: str, *arguments: str) -> tuple[int, str]:
    """Exit status and last line of stderr."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = 0\n", "port is 0; a port is a number from 1 to 65535"),
        ("drain_s = 0\n", "drain_s is 0; it must be a number of seconds above 0"),
        ("max_prompts = 0\n", "max_prompts is 0; it must be at least 1"),
        ("requests_per_minute = -3\n", "requests_per_minute is -3; it must be at least 1"),
        ("prot = 1\n", "has the key 'prot', which is not known; known: target, host, port"),
        ("port = true\n", "port is True; it must be an integer"),
        ("log_prompts = 1\n", "log_prompts is 1; it must be true or false"),
        ("cors_origins = 'x'\n", "cors_origins is 'x'; it must be a list of strings"),
        ("drain_s = '5'\n", "drain_s is '5'; it must be a number"),
        ("keys = 5\n", "keys is 5; it must be the path of a file or folder"),
        ("port = \n", "is not TOML"),
        (None, "cannot be read"),
    ],
)
def test_wrong_settings_are_named(text: str | None, told: str, tmp_path: Path) -> None:
    """A settings file that is wrong ends the start with one line that names file, key and remedy, and status 2."""
    file = tmp_path / "gateway.toml"
    if text is not None:
        file.write_text(text)
    status, line = run("fathom_server.gateway", "--config", str(file))
    assert status == 2
    assert line.startswith("error: ")
    assert str(file) in line
    assert told in line


def test_wrong_flags_are_named(tmp_path: Path) -> None:
    """So do flags: a target that is none, a port in use, settings without a gateway, a launcher's port given twice."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run("fathom_server.gateway", "--port", port)[1].startswith(f"error: port {port} on 127.0.0.1 cannot")
        status, line = run("fathom_server.cli", str(STAND_INS), "--openai-port", port, "--ports", "auto")
        assert (status, f"port {port} (--openai-port) is in use" in line) == (2, True)
    assert run("fathom_server.gateway", "--target", "nowhere:port")[1].startswith("error: target: ")
    given = ("--openai-config", str(tmp_path / "none.toml"))
    assert run("fathom_server.cli", str(STAND_INS), *given)[1].endswith("without --openai-port; give both")
    status, line = run("fathom_server.cli", str(STAND_INS), "--ports", "auto", "--openai-port", *given)
    assert (status, "none.toml cannot be read" in line) == (2, True)
    twice = ("--openai-port", "18001", "--grpc-port", "18001", "--ports", "auto")
    assert "port 18001 (--openai-port) is given twice" in run("fathom_server.cli", str(STAND_INS), *twice)[1]
