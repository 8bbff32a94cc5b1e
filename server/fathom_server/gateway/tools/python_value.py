"""Where a Python value ends, found while its text comes in pieces, and what it is in JSON."""

import ast
import json
import warnings
from typing import Any, Final

_OPENERS: Final = {"(": ")", "[": "]", "{": "}"}
_QUOTES: Final = "\"'"
_TRIPLE: Final = 3
_JSON_NAMES: Final = {"true": True, "false": False, "null": None}
"""Names of JSON's, which models write among Python's."""


class PythonValue:
    """Takes the characters of one argument of a call, up to the comma or parenthesis behind it.

    Its end is told by brackets and quotes alone; what stands between them is not looked at.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self._pieces: list[str] = []
        self._closers: list[str] = []
        self._quote = ""
        self._quotes_in_a_row = 0
        self._is_opening = False
        self._escaped = False

    @property
    def text(self) -> str:
        """The characters so far."""
        return "".join(self._pieces)

    def push(self, text: str) -> str:
        """Take characters; return the rest, which begins with what ended the value."""
        place = 0
        while place < len(text):
            self._step(text[place])
            if self.is_complete:
                break
            place += 1
        self._pieces.append(text[:place])
        return text[place:]

    def _step(self, character: str) -> None:
        if self._is_opening:
            if self._goes_on_opening(character):
                return
            self._is_opening = False
            if self._quotes_in_a_row == len('""'):  # an empty string
                self._quote = ""
            self._quotes_in_a_row = 0
        if self._quote:
            self._step_in_string(character)
        elif character in _QUOTES:
            self._quote, self._quotes_in_a_row, self._is_opening = character, 1, True
        elif character in _OPENERS:
            self._closers.append(_OPENERS[character])
        elif self._closers:
            if character == self._closers[-1]:
                self._closers.pop()
        else:
            self.is_complete = character in ",)"

    def _goes_on_opening(self, character: str) -> bool:
        """Take the second or third quote of a string's beginning."""
        if character != self._quote:
            return False
        self._quotes_in_a_row += 1
        if self._quotes_in_a_row == _TRIPLE:
            self._quote *= _TRIPLE
            self._quotes_in_a_row, self._is_opening = 0, False
        return True

    def _step_in_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
            return
        self._escaped = character == "\\"
        self._quotes_in_a_row = self._quotes_in_a_row + 1 if character == self._quote[0] else 0
        if self._quotes_in_a_row == len(self._quote):
            self._quote, self._quotes_in_a_row = "", 0


def json_of(text: str) -> str:
    """A Python literal as JSON; what is none, as a string of its characters.

    Tuples and sets become lists, and ``true``, ``false`` and ``null`` are taken as well. Keys that are no strings
    become strings as ``json.dumps`` makes them.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of strange escapes, which stay as they are
            tree = ast.parse(text.strip(), mode="eval")
        return as_json(_value(tree.body))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return as_json(text.strip())


def as_json(value: Any) -> str:
    """A value's JSON as arguments have it; raises ValueError for numbers that JSON does not have."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() or _is_unicode(text) else json.dumps(value, allow_nan=False)


def _is_unicode(text: str) -> bool:
    """Whether a text has no halves of surrogate pairs, which literals may hold and UTF-8 does not."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _value(node: ast.expr) -> Any:
    """What an expression of literals says; raises ValueError for another one."""
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as value)):
            return -value if isinstance(sign, ast.USub) else value
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            return [_value(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case ast.Name(id=name) if name in _JSON_NAMES:
            return _JSON_NAMES[name]
    raise ValueError("no literal")


def _key(node: ast.expr | None) -> Any:
    if node is None:  # **another
        raise ValueError("no literal")
    return _value(node)
