"""A command in a pseudo-terminal."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 20.0

_CONTROL = re.compile(r"\x1b\[\?2004[hl]\r?|\x1b\[\d*m")
"""What line editors send besides text: paste in brackets on and off, colours."""


class Terminal:
    """A command in a pseudo-terminal, typed into and read from; ``variables`` are added to its environment."""

    def __init__(self, *command: str, **variables: str) -> None:
        self._screen, terminal = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            env=os.environ | {"TERM": "dumb"} | variables,
            preexec_fn=_take_terminal,  # the child has one thread; Ctrl-C needs a controlling terminal
        )
        os.close(terminal)
        self._unread = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._screen, text.encode())

    def expect(self, pattern: str) -> str:
        """Wait until the screen shows the pattern; returns what stands before and in it."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(pattern, self._unread)):
            assert select.select([self._screen], [], [], max(0, deadline - time.monotonic()))[0], self._unread
            try:
                raw = os.read(self._screen, 65536)
            except OSError:  # Linux's end of file for a terminal whose other side is closed
                raw = b""
            assert raw, f"{pattern!r} never came; left: {self._unread!r}"
            self._unread = _CONTROL.sub("", self._unread + raw.decode(errors="replace"))
        shown, self._unread = self._unread[: found.end()], self._unread[found.end() :]
        return shown

    def close(self) -> None:
        """End it for certain."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._screen)


def fathom_client(*arguments: str, history: Path | str = "", **variables: str) -> Terminal:
    """``fathom-client`` in a terminal; ``history`` is where the lines of ``chat`` are kept."""
    return Terminal(sys.executable, "-m", "fathom_client.cli", *arguments, FATHOM_HISTORY=str(history), **variables)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
