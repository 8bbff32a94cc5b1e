"""How a server ends: nothing that runs is lost, nothing that idles holds it up, nothing stays behind."""

import http.client
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tests.serving import FathomServe, wait_until

from fathom_server.launcher.repository_check import SHARED_MEMORY

Serve = Callable[..., FathomServe]
MakeRepository = Callable[..., Path]


class Stream:
    """An open gRPC stream and what has come over it."""

    def __init__(self, url: str) -> None:
        self.client = triton_grpc.InferenceServerClient(url)
        self.answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))

    def ask(self, count: int, interval_ms: int, model: str = "ticker") -> None:
        """Send one request to the ticker, or to an ensemble of it."""
        inputs = []
        for name, value in (("COUNT", count), ("INTERVAL_MS", interval_ms)):
            tensor = triton_grpc.InferInput(name, [1], "INT32")
            tensor.set_data_from_numpy(np.array([value], np.int32))
            inputs.append(tensor)
        self.client.async_stream_infer(model, inputs)

    def tick(self) -> int:
        """The next answer's number."""
        result, error = self.answers.get(timeout=30)
        assert error is None, error
        return int(result.as_numpy("TICK")[0])


@contextmanager
def open_stream(url: str) -> Iterator[Stream]:
    """Hold a stream open for as long as the block runs."""
    stream = Stream(url)
    try:
        yield stream
    finally:
        stream.client.stop_stream()
        stream.client.close()


def stop_in_background(server: FathomServe) -> threading.Thread:
    """Ask the server to stop and wait for its end elsewhere."""
    thread = threading.Thread(target=server.stop)
    thread.start()
    return thread


def status_of(server: FathomServe) -> int | None:
    """The launcher's exit status."""
    assert server.process is not None
    return server.process.poll()


def wait_until_gone(server: FathomServe) -> None:
    """Wait until no process of the server's repository is left; fails if one stays."""
    deadline = time.monotonic() + 20
    while left := server.triton_processes():
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Traces:
    """What a launcher puts on the machine: a folder, and shared memory under a prefix."""

    folder: Path
    prefix: str

    @classmethod
    def of(cls, server: FathomServe) -> "Traces":
        """Read them from Triton's command line."""
        command = Path(f"/proc/{triton_of(server)}/cmdline").read_text()
        folder, prefix = (re.search(rf"{flag}=([^\0]+)", command) for flag in ("backend-directory", "prefix-name"))
        assert folder is not None
        assert prefix is not None
        return cls(Path(folder[1]).parent, prefix[1])

    def remaining(self) -> list[Path]:
        """What is there now."""
        return [path for path in (self.folder, *SHARED_MEMORY.glob(f"{self.prefix}*")) if path.exists()]


def triton_of(server: FathomServe) -> int:
    """The process id of the server's Triton."""
    [pid] = [pid for pid in server.triton_processes() if "--model-repo" in Path(f"/proc/{pid}/cmdline").read_text()]
    return pid


def test_running_request_is_finished(serve: Serve, repository: MakeRepository) -> None:
    """A stream that is half way when the stop comes gets all ten answers, and the server ends with status 0."""
    server = serve(repository("ticker"))
    with open_stream(server.url) as stream:
        stream.ask(count=10, interval_ms=200)
        ticks = [stream.tick() for _ in range(3)]
        stopping = stop_in_background(server)
        ticks += [stream.tick() for _ in range(7)]
    stopping.join()
    assert ticks == list(range(10))
    assert status_of(server) == 0


def test_idle_stream_does_not_hold_up_the_stop(serve: Serve, repository: MakeRepository) -> None:
    """A stream over which nothing was ever asked is cut off; the server ends long before its deadline."""
    server = serve(repository("ticker"), "--drain-s", "50")
    with open_stream(server.url):
        server.get("/v2/health/ready")
        assert server.stop() == 0
        assert "idle client connections were cut off" in server.stderr()
        assert "at the deadline" not in server.stderr()
    assert not server.triton_processes()


@pytest.mark.parametrize("model", ["ticker", "ticker_ensemble"])
def test_idle_stream_after_requests_does_not_hold_up_the_stop(
    serve: Serve, repository: MakeRepository, model: str
) -> None:
    """A stream that stays open after its answers is told from a running one, behind an ensemble too."""
    server = serve(repository("ticker", "ticker_ensemble", gauges=True), "--drain-s", "50")
    with open_stream(server.url) as stream:
        stream.ask(count=8, interval_ms=200, model=model)
        ticks = [stream.tick() for _ in range(2)]
        stopping = stop_in_background(server)
        ticks += [stream.tick() for _ in range(6)]
        stopping.join()
    assert ticks == list(range(8))
    assert status_of(server) == 0
    assert "nothing was in flight" in server.stderr()
    assert "at the deadline" not in server.stderr()


def test_deadline_ends_what_does_not_finish(serve: Serve, repository: MakeRepository) -> None:
    """A request longer than the drain is cut off at the deadline, and the exit status and the log say so."""
    server = serve(repository("ticker"), "--drain-s", "4")
    with open_stream(server.url) as stream:
        stream.ask(count=1000, interval_ms=100)
        stream.tick()
        assert server.stop() == 1
    assert "ticker may not have been finished" in server.stderr()
    assert not server.triton_processes()


def test_idle_http_connection_does_not_hold_up_the_stop(serve: Serve, repository: MakeRepository) -> None:
    """Triton would wait for a kept-alive HTTP connection; the server knows that it waits for nothing, and ends."""
    server = serve(repository("ticker", gauges=True), "--drain-s", "50")
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port)
    connection.request("GET", "/v2/health/live")
    connection.getresponse().read()
    assert server.stop() == 0
    assert "idle client connections were cut off" in server.stderr()
    assert "at the deadline" not in server.stderr()
    connection.close()
    assert not server.triton_processes()


def test_requests_of_callers_who_have_left_do_not_hold_up_the_stop(serve: Serve, repository: MakeRepository) -> None:
    """A model that goes on answering somebody who hung up, and does not say so, is not waited for."""
    server = serve(repository("ticker"), "--drain-s", "50")
    with open_stream(server.url) as stream:
        stream.ask(count=1000, interval_ms=100)
        stream.tick()
        stream.client.stop_stream(cancel_requests=True)
    assert server.stop() == 0
    assert "nothing was in flight" in server.stderr()
    assert "at the deadline" not in server.stderr()


def test_second_signal_ends_at_once(serve: Serve, repository: MakeRepository) -> None:
    """Asked twice, the server does not wait for what runs, and its status names the signal."""
    server = serve(repository("ticker"), "--drain-s", "50")
    with open_stream(server.url) as stream:
        stream.ask(count=1000, interval_ms=100)
        stream.tick()
        os.kill(server.pid, signal.SIGTERM)
        while "stopping: running requests" not in server.stderr():
            time.sleep(0.05)
        assert server.stop(signal.SIGINT) == 128 + signal.SIGINT
    assert "ending at once" in server.stderr()
    assert not server.triton_processes()


def test_stop_while_models_load(repository: MakeRepository, tmp_path: Path) -> None:
    """A server asked to stop before it is ready ends at once with status 0, and leaves no process."""
    server = FathomServe(repository("ticker"), tmp_path / "log").start()
    while "starting" not in server.stderr():
        time.sleep(0.02)
    assert server.stop() == 0
    assert "stopped before it was ready" in server.stderr()
    assert not server.triton_processes()


def test_killed_launcher_leaves_nothing(serve: Serve, repository: MakeRepository) -> None:
    """SIGKILL of fathom-serve ends Triton and even a model that is stuck holding Python's lock, and cleans up."""
    server = serve(repository("ticker", "stuck"))
    traces = Traces.of(server)
    assert len(traces.remaining()) == 3
    with triton_grpc.InferenceServerClient(server.url) as client:
        tensor = triton_grpc.InferInput("IN", [1], "INT32")
        tensor.set_data_from_numpy(np.array([0], np.int32))
        client.async_infer("stuck", [tensor], callback=lambda result, error: None)
        while not executing(server, "stuck"):
            time.sleep(0.05)
        assert len(server.triton_processes()) == 3
        server.stop(signal.SIGKILL)
        wait_until_gone(server)
    assert not traces.remaining()


def executing(server: FathomServe, model: str) -> bool:
    """Whether the stuck model has begun: it makes its thread as nice as can be when it is asked."""
    for pid in server.triton_processes():
        if f"/{model}/" not in Path(f"/proc/{pid}/cmdline").read_text():
            continue
        stats = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
        if any(stat.rpartition(")")[2].split()[16] == "19" for stat in stats):
            return True
    return False


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_exit_status_of_triton_is_returned(serve: Serve, repository: MakeRepository, signum: int) -> None:
    """When Triton ends by itself, its status comes back, in the shell's form if a signal ended it, with a line."""
    server = serve(repository("ticker"))
    traces = Traces.of(server)
    os.kill(triton_of(server), signum)
    assert server.process is not None
    expected = 0 if signum == signal.SIGTERM else 128 + signum
    assert server.process.wait(timeout=60) == expected
    assert f"Triton ended by itself with status {expected}" in server.stderr()
    wait_until_gone(server)
    assert not server.ports_file.exists()
    assert not traces.remaining()


@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_of_triton_is_no_end(serve: Serve, repository: MakeRepository, signum: int) -> None:
    """Triton that crashed is started again on its ports; one that keeps crashing is left to the supervisor."""
    server = serve(repository("ticker"))
    ports = server.ports_file.read_text()
    for _ in range(3):
        crashed = set(server.triton_processes())
        os.kill(triton_of(server), signum)
        # the old announcement is taken back before there is a new process
        wait_until(lambda before=crashed: set(server.triton_processes()) - before and server.ports_file.exists())
        assert server.ports_file.read_text() == ports
        with open_stream(server.url) as stream:
            stream.ask(count=2, interval_ms=0)
            assert [stream.tick(), stream.tick()] == [0, 1]
    os.kill(triton_of(server), signum)
    assert server.process is not None
    assert server.process.wait(timeout=60) == 128 + signum
    assert server.stderr().count(f"Triton ended by itself with status {128 + signum}") == 4
    assert server.stderr().count("it is started again") == 3
    assert "giving up after 3 restarts" in server.stderr()
    wait_until_gone(server)
