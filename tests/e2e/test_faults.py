"""A model's process is killed: its streams end with an error, and the model comes back by itself."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serving import FathomServe, wait_until

from fathom_client import Client
from fathom_client.errors import FathomError, StreamBrokenError
from fathom_server.launcher.stub_watch import stubs_of


def kill_stub(server: FathomServe, model: str) -> None:
    """End the process of a model as the kernel does when memory runs out."""
    tritons = [pid for pid in server.triton_processes() if model in stubs_of(pid).values()]
    pids = [pid for triton in tritons for pid, name in stubs_of(triton).items() if name == model]
    assert len(pids) == 1
    os.kill(pids[0], signal.SIGKILL)


@pytest.fixture
def lone(repository: Path, tmp_path: Path, serve: Callable[..., FathomServe]) -> FathomServe:
    """A server of one LLM."""
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "small").symlink_to(repository / "small")
    return serve(tmp_path / "lone")


def test_killed_model_comes_back(lone: FathomServe) -> None:
    """The running stream ends with an error instead of hanging, and the next request is answered."""
    failures: list[FathomError] = []
    began = threading.Event()
    with Client(lone.url) as client:

        def read() -> None:
            try:
                with client.stream("small", "Count: ", max_tokens=1900, ignore_eos=True) as answer:
                    for _ in answer:
                        began.set()
            except FathomError as error:
                failures.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        assert began.wait(60)
        killed = set(lone.triton_processes())
        kill_stub(lone, "small")
        reader.join(timeout=60)
        assert not reader.is_alive(), "the stream hangs"
        assert len(failures) == 1
        assert isinstance(failures[0], StreamBrokenError)
        # the streams break before the launcher takes its announcement back
        wait_until(lambda: killed.isdisjoint(lone.triton_processes()) and lone.ports_file.exists())
        client.wait_until_ready(60, "small")
        assert client.generate("small", "What is 2 + 2?", max_tokens=4, ignore_eos=True).finish_reason == "length"
    assert "the process of model 'small' ended" in lone.stderr()
    assert lone.stop() == 0
    assert lone.triton_processes() == []


def test_model_that_keeps_dying_is_left_to_the_supervisor(lone: FathomServe) -> None:
    """After three restarts in a short time the launcher gives up with a status that says so."""
    for _ in range(4):
        deadline = time.monotonic() + 60
        while not (lone.ports_file.exists() and lone.get("/v2/health/ready")[0] == 200):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kill_stub(lone, "small")
        while lone.ports_file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert lone.process is not None
    assert lone.process.wait(timeout=60) == 1
    assert "giving up after 3 restarts" in lone.stderr()
    assert lone.triton_processes() == []
