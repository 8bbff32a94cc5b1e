"""Free ports that another program takes before Triton has opened them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

MakeRepository = Callable[..., Path]

TAKEN = """
import socket, sys
from fathom_server.launcher import serve

chosen, takers = serve.choose_ports, []

def choose_and_lose(settings):
    ports = chosen(settings)
    if len(takers) < {times}:
        takers.append(socket.create_server(("127.0.0.1", ports.{port})))
    return ports

serve.choose_ports = choose_and_lose
from fathom_server.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""fathom-serve beside a program that takes one of its ports as soon as they are chosen."""


def test_taken_port_is_chosen_anew(repository: MakeRepository, tmp_path: Path) -> None:
    """With --ports auto a start that lost its gRPC port to another program chooses others and becomes ready."""
    command = [sys.executable, "-c", TAKEN.format(times=1, port="grpc"), str(repository("ticker")), "--ports", "auto"]
    with (tmp_path / "stderr.txt").open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["pid"] == process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            process.stdout.close()
    said = (tmp_path / "stderr.txt").read_text()
    assert said.count("was taken by another program before Triton opened it; choosing others") == 1


def test_port_that_was_named_is_not_exchanged(repository: MakeRepository, tmp_path: Path) -> None:
    """A port of a flag is what callers know: its loss ends the start, with Triton's word and the last words."""
    last_words = tmp_path / "last-words"
    code = TAKEN.format(times=99, port="http")
    ports = ["--grpc-port", "21871", "--http-port", "21872", "--metrics-port", "21873"]
    command = [sys.executable, "-c", code, str(repository("ticker")), *ports, "--termination-log", str(last_words)]
    result = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "21872" in last_words.read_text()
    assert "already in use" in last_words.read_text()
    assert len(last_words.read_text().splitlines()) == 1
    assert f"fathom-serve: error: {last_words.read_text()}" in result.stderr
