"""The process that watches a server: ``python -m fathom_loadtest.server_side.watcher METRICS_URL GRPC_URL INTERVAL_S``.

Reading a metrics page takes milliseconds, which the event loop of a load generator does not have. It takes commands, a
line each, on its standard input, and answers each with a line of JSON: ``open`` takes the first look of a stage and
begins to look every interval; ``close OPENED_NS`` takes the last look and answers with what the server says of the
stage. It ends with its input.
"""

import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from fathom_client import metric_names as engine
from fathom_loadtest.errors import MetricsError
from fathom_loadtest.server_side import names as triton
from fathom_loadtest.server_side.document import ServerSide
from fathom_loadtest.server_side.observation import Look, Observation
from fathom_loadtest.server_side.processes import ServerProcesses
from fathom_loadtest.server_side.scrape import Scrape

_SETTLED_WITHIN_S: Final = 3.0
_BETWEEN_LOOKS_S: Final = 0.15


class Watcher:
    """Looks at a server while a stage is open."""

    def __init__(self, metrics_url: str, grpc_url: str, interval_s: float) -> None:
        self._metrics_url = metrics_url
        self._grpc_url = grpc_url
        self._interval_s = interval_s
        self._processes: ServerProcesses | None = None
        self._observation: Observation | None = None

    def open(self) -> None:
        """Begin a stage, once the server has fallen idle."""
        observation = Observation(self._metrics_url, self._interval_s)
        try:
            self._processes = ServerProcesses(self._grpc_url)
        except MetricsError as error:
            self._processes = None
            observation.note(str(error))
        look = self._settled(observation)
        if look is not None:
            observation.begin(look)
            busy = _under_way(look.scrape)
            if busy:
                observation.note(
                    f"{busy:g} requests of others were under way when the stage began; the server counts them too"
                )
        self._observation = observation

    def look(self) -> None:
        """Take one look, if a stage is open and its first one went well."""
        observation = self._observation
        if observation is not None and observation.first is not None:
            found = self._look(observation)
            if found is not None:
                observation.add(found)

    def close(self, opened_ns: int) -> ServerSide:
        """End the stage, once the server has counted all of it; gives what it says."""
        observation, self._observation = self._observation, None
        if observation is None:
            return ServerSide.missing(self._metrics_url, self._interval_s, "no stage was open")
        if observation.first is not None:
            last = self._settled(observation)
            if last is not None:
                observation.end(last)
        return observation.conclude(opened_ns)

    def _look(self, observation: Observation) -> Look | None:
        try:
            scrape = Scrape.fetch(self._metrics_url)
        except MetricsError as error:
            observation.note(str(error))
            return None
        return Look(scrape, None if self._processes is None else self._processes.sample())

    def _settled(self, observation: Observation) -> Look | None:
        """Look until nothing is under way and two looks agree: engines write their counters some time after."""
        deadline = time.monotonic() + _SETTLED_WITHIN_S
        before = self._look(observation)
        while before is not None and time.monotonic() < deadline:
            time.sleep(_BETWEEN_LOOKS_S)
            now = self._look(observation)
            if now is None:
                return before
            if not _under_way(now.scrape) and _counters(now.scrape) == _counters(before.scrape):
                return now
            before = now
        return before


def _under_way(scrape: Scrape) -> float:
    return scrape.total(engine.REQUESTS_RUNNING) + scrape.total(engine.REQUESTS_WAITING) + scrape.total(triton.PENDING)


def _counters(scrape: Scrape) -> tuple[float, ...]:
    names = (triton.SUCCESS, triton.FAILURE, engine.GENERATION_TOKENS, engine.REQUEST_ENDS)
    return tuple(scrape.total(name) for name in names)


def main(arguments: Sequence[str]) -> int:
    """Serve commands until there are none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the load test, which closes this one's input
    metrics_url, grpc_url, interval_s = arguments[0], arguments[1], float(arguments[2])
    watcher = Watcher(metrics_url, grpc_url, interval_s)
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            commands.put(line)
        commands.put("")

    threading.Thread(target=listen, daemon=True).start()
    due = time.monotonic() + interval_s
    while True:
        try:
            command = commands.get(timeout=max(0.0, due - time.monotonic())).split()
        except queue.Empty:
            watcher.look()
            due = max(due + interval_s, time.monotonic())
            continue
        match command:
            case ["open"]:
                watcher.open()
                answer: object = {"open": True}
                due = time.monotonic() + interval_s
            case ["close", opened_ns]:
                answer = asdict(watcher.close(int(opened_ns)))
            case _:
                return 0
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
