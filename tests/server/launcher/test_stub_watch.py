"""The watch over the processes of Python models, on real processes."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fathom_server.launcher.stub_watch import POLL_S, StubWatch, stubs_of
from fathom_server.launcher.tritonserver import STUB

LOOKS = 8
"""Polls after which an end that is to be reported would have been."""


class Stubs:
    """Processes that look as Triton's stubs do, children of this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, model: str) -> subprocess.Popen[bytes]:
        """A stub of a model, when it can be seen."""
        script = self.folder / model / "1" / "model.py"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("import time\ntime.sleep(600)\n")
        process = subprocess.Popen([STUB, str(script)], executable=sys.executable)
        self.processes.append(process)
        while process.pid not in stubs_of(os.getpid()):
            pass
        return process


class Triton:
    """What a Triton says of its models, and how often it was asked."""

    def __init__(self, states: dict[str, str] | None) -> None:
        self.states = states
        self.asked = threading.Semaphore(0)

    def __call__(self) -> dict[str, str] | None:
        self.asked.release()
        return self.states


@pytest.fixture
def stubs(tmp_path: Path) -> Iterator[Stubs]:
    made = Stubs(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


@pytest.fixture
def ends() -> "Ends":
    return Ends()


class Ends:
    """Models whose ends were reported."""

    def __init__(self) -> None:
        self.models: list[str] = []
        self.one = threading.Event()

    def __call__(self, model: str) -> None:
        self.models.append(model)
        self.one.set()


def test_end_of_a_ready_model_is_reported(stubs: Stubs, ends: Ends) -> None:
    """Of two models, the one whose process was killed is named, once."""
    chat, _ = stubs.start("chat"), stubs.start("other")
    with StubWatch(os.getpid(), Triton({"chat": "READY", "other": "READY"}), ends):
        chat.kill()
        assert ends.one.wait(30)
    assert ends.models == ["chat"]


def test_end_before_triton_answers_is_kept(stubs: Stubs, ends: Ends) -> None:
    """A process that ends while Triton still starts is reported as soon as Triton calls its model ready."""
    chat, triton = stubs.start("chat"), Triton(None)
    with StubWatch(os.getpid(), triton, ends):
        chat.kill()
        for _ in range(3):
            assert triton.asked.acquire(timeout=30)
        assert ends.models == []
        triton.states = {"chat": "LOADING"}
        for _ in range(3):
            assert triton.asked.acquire(timeout=30)
        assert ends.models == []
        triton.states = {"chat": "READY"}
        assert ends.one.wait(30)
    assert ends.models == ["chat"]


def test_process_found_after_the_start_is_watched(stubs: Stubs, ends: Ends) -> None:
    """A model that is loaded later is looked after, too."""
    with StubWatch(os.getpid(), Triton({"late": "READY"}), ends) as watch:
        late = stubs.start("late")
        while late.pid not in watch.known:
            pass
        late.kill()
        assert ends.one.wait(30)
    assert ends.models == ["late"]


@pytest.mark.parametrize("state", ["UNLOADING", "UNAVAILABLE"])
def test_unloaded_model_is_not_reported(stubs: Stubs, ends: Ends, state: str) -> None:
    """A process that ends because its model is unloaded is forgotten, also if a model of that name is ready later."""
    chat, triton = stubs.start("chat"), Triton({"chat": state})
    with StubWatch(os.getpid(), triton, ends):
        chat.kill()
        assert triton.asked.acquire(timeout=30)
        triton.states = {"chat": "READY"}
        assert not ends.one.wait(LOOKS * POLL_S)


def test_reloaded_model_is_not_reported(stubs: Stubs, ends: Ends) -> None:
    """A model that has another process by now has not ended."""
    chat = stubs.start("chat")
    stubs.start("chat")
    with StubWatch(os.getpid(), Triton({"chat": "READY"}), ends):
        chat.kill()
        assert not ends.one.wait(LOOKS * POLL_S)
