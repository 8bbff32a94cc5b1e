"""A caller's grammar, in Lark's notation or GBNF, kept to what can be held safely."""

import re
from typing import Final

from fathom_server.errors import InvalidRequestError

MAX_GRAMMAR_CHARACTERS: Final = 1 << 16
MAX_RULES: Final = 400
"""Rules and terminals of one grammar; the library follows them by recursion, and ends the process at some thousands."""

_SHIELDED: Final = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\\n])*"i?) | (?P<comment>//[^\n]*|\#[^\n]*) | (?P<pattern>/(?:\\.|[^/\\\n])+/[imslux]*)""",
    re.VERBOSE,
)
_DEFINITION: Final = re.compile(
    r"^[ \t]*[?!]*([A-Za-z_][A-Za-z0-9_-]*)[ \t]*(\[[^\]\n]*\]|\{[^}\n]*\}|::?)?", re.MULTILINE
)
_DIRECTIVE: Final = re.compile(r"%([A-Za-z_]+)(\s+[A-Za-z_.]+)?")


def checked_rules(text: str) -> str:
    """A grammar in the library's notation, Lark's.

    GBNF (``root ::= ...``) is rewritten. Raises InvalidRequestError for what is too large, and for the library's own
    additions to Lark: special tokens, schemas and options inside a grammar, attributes of rules.
    """
    if len(text) > MAX_GRAMMAR_CHARACTERS:
        _refuse(f"{len(text)} characters; at most {MAX_GRAMMAR_CHARACTERS} are taken")
    if "::=" in text:
        text = _from_gbnf(text)
    bare = _SHIELDED.sub(lambda match: "" if match["comment"] else '""', text)
    for directive, argument in _DIRECTIVE.findall(bare):
        if directive == "ignore" or (directive == "import" and argument.strip().startswith("common.")):
            continue
        _refuse(f"%{directive} is not supported; only %ignore and %import common.NAME are")
    special = re.search(r"<[^>\n]*>", bare)
    if special:
        _refuse(f"{special[0]} names a token; an answer holds text only: write it as a string in quotes")
    grammar = re.search(r"@[A-Za-z0-9_]+", bare)
    if grammar:
        _refuse(f"{grammar[0]} names another grammar; there is none")
    rules = 0
    for definition in _DEFINITION.finditer(bare):
        name, follows = definition[1], definition[2] or ""
        rest = bare[definition.end() :].lstrip(" \t")
        if follows in ("::",) or follows.startswith("{"):
            _refuse(f"the rule {name} takes parameters, which is not supported")
        if follows.startswith("[") and rest.startswith(":"):
            _refuse(f"the rule {name} has attributes {follows}, which are not supported; leave them out")
        rules += follows == ":" or rest.startswith((":", "."))
    if rules > MAX_RULES:
        _refuse(f"{rules} rules; at most {MAX_RULES} are taken")
    return text


def _from_gbnf(text: str) -> str:
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return str(any_to_lark(text)).replace("%llguidance {}", "", 1)
    except Exception as error:  # the converter raises bare Exception
        raise InvalidRequestError(f"structured_outputs.grammar is not valid GBNF: {error}") from error


def _refuse(why: str) -> None:
    raise InvalidRequestError(f"structured_outputs.grammar: {why}")
