"""Notices when the process of a Python model ends that should not.

Triton 2.51 does not: requests that were running then hang until their deadlines, new ones fail with "Stub process is
not healthy", and the model is called ready all the same (``docs/architecture.md``, "What Triton does").
"""

import http.client
import itertools
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

from fathom_server.launcher.tritonserver import STUB

POLL_S: Final = 0.25
_SEARCH_EVERY: Final = 8
"""Polls from one search among all processes to the next once all models have loaded; each looks at those known."""
COMMAND_CHARACTERS: Final = 15
"""So much of a program's name the kernel keeps."""
READY: Final = "READY"
UNLOADED: Final = (None, "UNLOADING", "UNAVAILABLE")
"""States in which a model's process ends as it should; None is that of a model that Triton does not know."""
_PROC: Final = Path("/proc")


class StubWatch:
    """Looks after the stubs among a process's children from a thread of its own; a context manager.

    ``on_end`` is called once, with the name of the model, when the stub of a model ends that Triton calls ready.
    ``model_states`` gives each model's state in Triton, or None if Triton does not answer. ``known`` are the stubs that
    are looked after, process id → model.
    """

    def __init__(
        self, triton_pid: int, model_states: Callable[[], dict[str, str] | None], on_end: Callable[[str], None]
    ) -> None:
        self._triton_pid = triton_pid
        self._model_states = model_states
        self._on_end = on_end
        self.known = stubs_of(triton_pid)
        self._closing = threading.Event()
        self._is_settled = False
        self._thread = threading.Thread(target=self._run, name="stub-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closing.set()
        self._thread.join()

    def settle(self) -> None:
        """Say that every model has loaded: from now on new processes are looked for less often."""
        self._is_settled = True

    def _run(self) -> None:
        for poll in itertools.count(1):
            if self._closing.wait(POLL_S):
                return
            if self._is_settled and poll % _SEARCH_EVERY and all(is_child(pid, self._triton_pid) for pid in self.known):
                continue
            alive = stubs_of(self._triton_pid)
            # one that was loaded again has another stub
            ended = {
                pid: model for pid, model in self.known.items() if pid not in alive and model not in alive.values()
            }
            states = self._model_states() if ended else {}
            for model in ended.values():
                if states and states.get(model) == READY:
                    self._on_end(model)
                    return
            # one that loads, or of which Triton says nothing yet, may be called ready later all the same
            undecided = {
                pid: model for pid, model in ended.items() if states is None or states.get(model) not in UNLOADED
            }
            self.known = alive | undecided


def is_child(pid: int, parent_pid: int) -> bool:
    """Whether a process lives and is a child of another."""
    try:
        # "pid (name) state ppid …"; the name may hold anything
        state, parent = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return False
    return int(parent) == parent_pid and state not in "ZX"


def unburied_stubs(triton_pid: int) -> set[int]:
    """Process ids of a Triton's stubs that have ended, and whose ends it has not looked at."""
    found = set()
    for entry in _PROC.iterdir():
        try:
            head, _, tail = (entry / "stat").read_text().rpartition(")")
        except OSError:  # no process, or it has just gone
            continue
        state, parent = tail.split()[:2]
        if state == "Z" and int(parent) == triton_pid and head.partition("(")[2] == STUB[:COMMAND_CHARACTERS]:
            found.add(int(entry.name))
    return found


def stubs_of(triton_pid: int) -> dict[int, str]:
    """Process ids of a Triton's living stubs, and the model of each."""
    stubs = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or not is_child(int(entry.name), triton_pid):
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended
            continue
        if len(arguments) > 1 and Path(arguments[0]).name == STUB:
            stubs[int(entry.name)] = Path(arguments[1]).parents[1].name
    return stubs


def model_states(host: str, http_port: int, headers: Mapping[str, str]) -> dict[str, str] | None:
    """State of every model by Triton's repository index; None if it does not answer."""
    connection = http.client.HTTPConnection(host, http_port, timeout=2)
    try:
        connection.request("POST", "/v2/repository/index", headers={"Connection": "close", **headers})
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            return None
        return {entry["name"]: entry.get("state", "") for entry in json.loads(response.read())}
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
