"""Ends an answer at the first stop string and never shows a part of one."""

from collections.abc import Sequence


class StopStringFilter:
    """Holds back text that may be the beginning of a stop string until it is certain that it is not.

    ``include`` shows the stop string that ended the answer, too.
    """

    def __init__(self, stop_strings: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stop_strings)
        self._include = include
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that may be shown now; after a stop string was met, ``stopped`` is true and nothing more comes."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        self._held += text
        found = [(position, len(stop)) for stop in self._stops if (position := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            position, length = min(found)
            shown, self._held = self._held[: position + length if self._include else position], ""
            return shown
        keep = max(_suffix_that_begins(self._held, stop) for stop in self._stops)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return shown

    def flush(self) -> str:
        """What is still held back, once the answer has ended for another reason."""
        shown, self._held = self._held, ""
        return shown


def _suffix_that_begins(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
