"""What a reader of an answer finds in it, in order."""

import secrets
import string
from dataclasses import dataclass
from typing import Final, Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """Text that is no part of a call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call of a function begins; ``index`` counts the answer's calls from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next characters of a call's arguments, as the model writes them."""

    index: int
    text: str


ToolEvent = Content | CallBegin | CallArguments


class ToolCallReader(Protocol):
    """Reads one answer as it comes; what it finds does not depend on how the text is cut into pieces."""

    def push(self, text: str) -> list[ToolEvent]:
        """What is certain after the next piece."""
        ...

    def end(self) -> list[ToolEvent]:
        """What remains when the answer has ended."""
        ...


ID_LETTERS: Final = string.ascii_letters + string.digits


def call_id() -> str:
    """A name for a call: nine letters and digits, the only form that Mistral's templates take."""
    return "".join(secrets.choice(ID_LETTERS) for _ in range(9))
