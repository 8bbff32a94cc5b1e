"""A parameter's value as bare text up to its end mark, handed on as JSON."""

from typing import Final

from fathom_server.gateway.tools.marked_text import MarkedText
from fathom_server.gateway.tools.parameter_types import STRING, ParameterTypes
from fathom_server.gateway.tools.python_value import as_json

PARAMETER_END: Final = "</parameter>"
_LINE_BREAK: Final = "\n"


class ParameterValue:
    """Reads the value of the parameter ``key``; ``opening`` is what stands before it in the arguments' JSON.

    A string is handed on as it comes, anything else when it is whole. The line break behind the beginning and the one
    before the end are not the value's.
    """

    def __init__(self, opening: str, key: str, types: ParameterTypes) -> None:
        self.is_complete = False
        self._opening = opening
        self._key = key
        self._types = types
        self._is_string = types.of(key) == {STRING}
        self._text = MarkedText(PARAMETER_END)
        self._whole = ""
        self._has_begun = False

    def begin(self) -> str:
        """What is certain before the value has begun."""
        return f'{self._opening}"' if self._is_string else ""

    def push(self, text: str) -> tuple[str, str]:
        """Take characters; return the JSON that is certain, and the rest behind the end mark."""
        passage = self._text.push(text)
        self.is_complete = passage.mark is not None
        piece = self._piece(passage.text + passage.space)
        if self.is_complete:
            piece = piece.removesuffix(_LINE_BREAK)
        if self._is_string:
            return _characters(piece) + ('"' if self.is_complete else ""), passage.rest
        self._whole += piece
        return self._opening + self._types.json_of(self._key, self._whole) if self.is_complete else "", passage.rest

    def end(self) -> str:
        """What remains of a value that has broken off."""
        return _characters(self._piece(self._text.end())) if self._is_string else ""

    def _piece(self, text: str) -> str:
        if not text or self._has_begun:
            return text
        self._has_begun = True
        return text.removeprefix(_LINE_BREAK)


def _characters(text: str) -> str:
    """The inside of a JSON string."""
    return as_json(text)[1:-1]
