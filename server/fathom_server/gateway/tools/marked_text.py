"""Text in which marks are looked for as it comes, without ever showing a part of one."""

from dataclasses import dataclass
from typing import Final

SPACE: Final = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Passage:
    """Text that is certain; then, where there is one, a mark with the white space before it and what follows it."""

    text: str
    mark: str | None = None
    space: str = ""
    rest: str = ""


class MarkedText:
    """Holds back what may be the beginning of a mark, and white space, which may stand before one."""

    def __init__(self, *marks: str) -> None:
        self._marks = marks
        self._held = ""

    def push(self, text: str) -> Passage:
        """Take the next piece, up to the first mark."""
        text = self._held + text
        places = {mark: place for mark in self._marks if (place := text.find(mark)) >= 0}
        if places:
            self._held = ""
            mark = min(places, key=places.__getitem__)
            before, rest = text[: places[mark]], text[places[mark] + len(mark) :]
            shown = before.rstrip(SPACE)
            return Passage(shown, mark, before[len(shown) :], rest)
        certain = text[: len(text) - max(_begun(text, mark) for mark in self._marks)].rstrip(SPACE)
        self._held = text[len(certain) :]
        return Passage(certain)

    def end(self) -> str:
        """What was held back, now that no mark can come."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, mark: str) -> int:
    """How many characters of a mark the text ends with."""
    return next((length for length in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:length])), 0)
