"""Where a JSON value ends, found while its text comes in pieces."""

from typing import Final

WHITESPACE: Final = " \t\r\n"
_SCALAR_ENDS: Final = ",]}" + WHITESPACE


class JsonValue:
    """Takes the characters of one JSON value up to its end, told by its brackets and quotes alone.

    What stands between them is not looked at: a value that is broken inside ends where its brackets say. ``text`` is
    what was taken, ``is_complete`` whether it has ended. A number or a name ends before the comma, bracket or space
    behind it.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self._pieces: list[str] = []
        self._closers: list[str] = []
        self._in_string = False
        self._escaped = False
        self._begun = False

    @property
    def text(self) -> str:
        """The value's characters so far, without the white space before it."""
        return "".join(self._pieces)

    @property
    def is_object(self) -> bool:
        """Whether the value has begun and is an object."""
        return bool(self._pieces) and self._pieces[0].startswith("{")

    def push(self, text: str) -> tuple[str, str]:
        """Take characters; return those of the value, and the rest behind its end."""
        begin = 0
        if not self._begun:
            begin = len(text) - len(text.lstrip(WHITESPACE))
        place = begin
        while place < len(text) and not self.is_complete:
            character = text[place]
            if self._begun and not self._closers and not self._in_string and character in _SCALAR_ENDS:
                self.is_complete = True
                break
            self._step(character)
            place += 1
        taken = text[begin:place]
        if taken:
            self._pieces.append(taken)
        return taken, text[place:]

    def _step(self, character: str) -> None:
        self._begun = True
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
                self.is_complete = not self._closers
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._closers.append("}" if character == "{" else "]")
        elif self._closers and character == self._closers[-1]:
            self._closers.pop()
            self.is_complete = not self._closers
