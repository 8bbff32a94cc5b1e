"""Structures written in the grammar library's own language."""

import json
from typing import Final

from fathom_server.engine.grammar.rules import checked_rules
from fathom_server.engine.grammar.schema import Schema, checked_schema
from fathom_server.engine.structured_output import StructuredOutput
from fathom_server.errors import InvalidRequestError

MAX_REGEX_CHARACTERS: Final = 1 << 13
MAX_CHOICE_CHARACTERS: Final = 1 << 18
MAX_CHOICES: Final = 10_000

ITEM_SEPARATOR: Final = ", "
KEY_SEPARATOR: Final = ": "
"""JSON is written as Python's ``json.dumps`` writes it: no other space, no line breaks. Models know this form well, its
brackets and keys can be forced, and an answer cannot fill up with white space."""

_JSON_FORM: Final = {
    "item_separator": ITEM_SEPARATOR,
    "key_separator": KEY_SEPARATOR,
    "whitespace_flexible": False,
    "coerce_one_of": False,
    "lenient": False,
}


def grammar_source(wanted: StructuredOutput) -> str:
    """The grammar of a structure; raises InvalidRequestError for what is not supported."""
    match wanted.kind:
        case "json":
            return _json_source(checked_schema(wanted.value))
        case "json_object":
            return _json_source({"type": "object"})
        case "regex":
            from llguidance import LLMatcher

            _check_size("regex", len(wanted.value), MAX_REGEX_CHARACTERS, "characters")
            return LLMatcher.grammar_from_regex(wanted.value)
        case "choice":
            return _lark_source(_choice_rules(wanted.choices))
        case "grammar":
            return _lark_source(checked_rules(wanted.value))


def _json_source(schema: Schema) -> str:
    """A schema with the form in which JSON is written."""
    options = schema if isinstance(schema, dict) else {}
    return json.dumps({"grammars": [{"json_schema": {**options, "x-guidance": _JSON_FORM}}]})


def _lark_source(rules: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": rules}]})


def _choice_rules(choices: tuple[str, ...]) -> str:
    _check_size("choice", len(choices), MAX_CHOICES, "choices")
    _check_size("choice", sum(map(len, choices)), MAX_CHOICE_CHARACTERS, "characters in all")
    return "start: CHOICE\nCHOICE: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)


def _check_size(kind: str, size: int, most: int, unit: str) -> None:
    if size > most:
        raise InvalidRequestError(f"structured_outputs.{kind} has {size} {unit}; at most {most} are taken")
