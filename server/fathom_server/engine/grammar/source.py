"""Structures written in the grammar library's own language."""

import json
from typing import Final

from fathom_server.engine.structured_output import StructuredOutput

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
    """The grammar of a structure."""
    match wanted.kind:
        case "json":
            return json_source(json.loads(wanted.value))
        case "json_object":
            return json_source({"type": "object"})
        case "regex":
            from llguidance import LLMatcher

            return LLMatcher.grammar_from_regex(wanted.value)
        case "choice":
            return json.dumps({"grammars": [{"lark_grammar": _choice_source(wanted.choices)}]})
        case "grammar":
            return json.dumps({"grammars": [{"lark_grammar": wanted.value}]})


def json_source(schema: object) -> str:
    """A schema with the form in which JSON is written."""
    checked = schema if isinstance(schema, dict) else ({} if schema else {"enum": []})
    return json.dumps({"grammars": [{"json_schema": {**checked, "x-guidance": _JSON_FORM}}]})


def _choice_source(choices: tuple[str, ...]) -> str:
    return "start: CHOICE\nCHOICE: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
