"""The load test's hold on the process that watches the server."""

import json
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any, Final, Self

from fathom_loadtest.server_side.document import ServerSide

_ANSWER_WITHIN_S: Final = 20.0


class ServerSideWatch:
    """Asks the watching process for what the server counts in each stage; a context manager that ends it.

    Nothing here fails a run: where the watcher is of no use, the stage's answer says why.
    """

    def __init__(self, metrics_url: str, grpc_url: str, interval_s: float) -> None:
        self._metrics_url = metrics_url
        self._interval_s = interval_s
        command = [sys.executable, "-m", "fathom_loadtest.server_side.watcher", metrics_url, grpc_url, str(interval_s)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def open(self) -> None:
        """Begin a stage: to be called when its warm-up is over and before its first request."""
        self._ask("open")

    def close(self, opened_ns: int) -> ServerSide:
        """End a stage that opened at ``opened_ns`` (``perf_counter_ns``); gives what the server says of it."""
        answer = self._ask(f"close {opened_ns}")
        if answer is None:
            return ServerSide.missing(
                self._metrics_url, self._interval_s, "the process that watches the server ended or does not answer"
            )
        return ServerSide.from_json(answer)

    def stop(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # a command that the process did not live to read
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _ask(self, command: str) -> Any:
        assert self._process.stdin is not None  # noqa: S101 - it was opened with pipes
        assert self._process.stdout is not None  # noqa: S101
        timer = threading.Timer(_ANSWER_WITHIN_S, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            return None
        finally:
            timer.cancel()
        return json.loads(line) if line else None
