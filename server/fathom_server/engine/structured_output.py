"""What an answer's structure must be: a JSON schema, any JSON object, a regular expression, choices or a grammar."""

import json
from dataclasses import dataclass
from typing import Final, Literal, get_args

from fathom_server.errors import InvalidRequestError

StructureKind = Literal["json", "json_object", "regex", "choice", "grammar"]
STRUCTURE_KINDS: Final[tuple[StructureKind, ...]] = get_args(StructureKind)


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """The structure that an answer must have; whether a grammar can be made of it is the grammar's own check.

    ``value`` by ``kind``: ``json`` a JSON schema as JSON; ``json_object`` empty, any JSON object will do; ``regex`` a
    regular expression that the whole answer matches; ``choice`` a JSON list of strings, one of which is the answer;
    ``grammar`` a context-free grammar. Raises InvalidRequestError.
    """

    kind: StructureKind
    value: str = ""

    def __post_init__(self) -> None:
        if self.kind not in STRUCTURE_KINDS:
            raise InvalidRequestError(
                f"structured_outputs is of the kind {self.kind!r}; it must be one of {', '.join(STRUCTURE_KINDS)}"
            )
        if self.kind == "json_object":
            if self.value:
                raise InvalidRequestError("structured_outputs.json_object takes no value; give json for a schema")
            return
        if not self.value:
            raise InvalidRequestError(f"structured_outputs.{self.kind} is empty; give what the answer must match")
        if self.kind == "json" and not isinstance(_parsed("json", self.value), dict | bool):
            raise InvalidRequestError("structured_outputs.json must be a JSON schema: an object, true or false")
        if self.kind == "choice":
            self._check_choices()

    @property
    def choices(self) -> tuple[str, ...]:
        """The strings of a ``choice``."""
        return tuple(json.loads(self.value))

    def _check_choices(self) -> None:
        choices = _parsed("choice", self.value)
        if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
            raise InvalidRequestError(f"structured_outputs.choice is {self.value[:80]!r}; it must be a list of strings")
        if not choices or "" in choices:
            raise InvalidRequestError(
                "structured_outputs.choice must hold at least one string, and no empty one; leave empty ones out"
            )


def _parsed(kind: str, text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"structured_outputs.{kind} is not JSON: {error}") from error
    return value
