"""What ``fathom-serve`` tells its LLMs in a stop: to take no new requests, and, at the deadline, to end those that run.

Triton itself goes on handing new gRPC requests to models for as long as an HTTP connection is open, and at its own
deadline it breaks connections off. A word in a file is seen by every model's process, whatever Triton is doing.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

DRAIN_VARIABLE: Final = "FATHOM_DRAIN_FILE"
"""Path of the file, which ``fathom-serve`` tells its models; it is not there while the server serves."""

DrainWord = Literal["refuse", "end"]
POLL_S: Final = 0.1


def write_drain_word(file: Path, word: DrainWord) -> None:
    """Tell the models; a reader sees the whole word or what stood there before. Raises OSError."""
    draft = file.with_suffix(".draft")
    draft.write_text(word, encoding="utf-8")
    draft.replace(file)


class DrainWatch:
    """Looks at the file. ``is_refusing`` is true from the first word on; ``on_end`` is called once, at the second."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._closing = threading.Event()
        self.is_refusing = False
        file = os.environ.get(DRAIN_VARIABLE)
        self._file = Path(file) if file else None
        self._thread = threading.Thread(target=self._run, name="fathom-drain", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while self._file is not None and not self._closing.wait(POLL_S):
            try:
                word = self._file.read_text(encoding="utf-8")
            except OSError:
                continue
            self.is_refusing = True
            if word == "end":
                self._on_end()
                return
