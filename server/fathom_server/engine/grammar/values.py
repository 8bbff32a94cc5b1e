"""Values of a schema's keywords, read or refused with the place where they stand."""

import json
import math
from typing import Any, Final, NoReturn

from fathom_server.engine.grammar.keywords import TYPES
from fathom_server.engine.grammar.numbers import EXACT_DIGITS, MAX_EXACT_INTEGER, is_exact
from fathom_server.errors import InvalidRequestError

MAX_ENUM_VALUES: Final = 20_000
MAX_PATTERN_CHARACTERS: Final = 4096


def read_types(value: Any, at: str) -> str | list[str]:
    """Types, without those that another includes."""
    types = value if isinstance(value, list) else [value]
    if not types:
        refuse(at, "no type is given; leave the keyword out to allow any")
    for one in types:
        if one not in TYPES:
            refuse(at, f"{shown(one)} is no type; valid: {', '.join(TYPES)}")
    kept = [one for one in dict.fromkeys(types) if not (one == "integer" and "number" in types)]
    return kept if isinstance(value, list) else str(value)


def read_values(value: Any, at: str) -> list[Any]:
    """Values of an enum."""
    if not isinstance(value, list) or not value:
        refuse(at, f"{shown(value)} must be a list of at least one value")
    if len(value) > MAX_ENUM_VALUES:
        refuse(at, f"{len(value)} values; at most {MAX_ENUM_VALUES} are taken")
    for one in value:
        check_value(one, at)
    return value


def check_value(value: Any, at: str) -> None:
    """Refuse numbers that the library would round."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        check_number(value, at)
        if not is_exact(value):
            refuse(at, f"{value} has more than {EXACT_DIGITS} digits or is beyond 2^53; use a string")
    elif isinstance(value, list):
        for one in value:
            check_value(one, at)
    elif isinstance(value, dict):
        for one in value.values():
            check_value(one, at)


def check_number(value: Any, at: str) -> None:
    """Refuse what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        refuse(at, f"{shown(value)} must be a number")


def read_number(keyword: str, schema: dict[str, Any], result: dict[str, Any], at: str) -> None:
    """A bound or a step, written into ``result``."""
    value = schema[keyword]
    bound = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}.get(keyword)
    if isinstance(value, bool) and bound is not None:  # draft 4: a flag beside minimum and maximum
        if value and bound not in schema:
            refuse(at, f"true means nothing without {bound}")
        if value:
            check_number(schema[bound], at)
            result[keyword] = schema[bound]
        return
    check_number(value, at)
    if abs(value) > MAX_EXACT_INTEGER:
        refuse(at, f"{value} is beyond 2^53, where numbers are no longer exact")
    if keyword == "multipleOf" and value <= 0:
        refuse(at, f"{value} must be above 0")
    if keyword == "multipleOf" and not is_exact(value):
        refuse(at, f"{value} has more than {EXACT_DIGITS} digits")
    result[keyword] = value


def read_count(value: Any, most: int, at: str) -> int:
    """A count of at most ``most``."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        refuse(at, f"{shown(value)} must be a whole number of at least 0")
    if value > most:
        refuse(at, f"{value} is too large; at most {most}")
    return value


def read_pattern(value: Any, at: str) -> str:
    """A regular expression."""
    if not isinstance(value, str):
        refuse(at, f"{shown(value)} must be a regular expression, as a string")
    if len(value) > MAX_PATTERN_CHARACTERS:
        refuse(at, f"{len(value)} characters; a regular expression may have {MAX_PATTERN_CHARACTERS}")
    return value


def read_names(value: Any, at: str) -> list[str]:
    """Names, each once."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        refuse(at, f"{shown(value)} must be a list of strings")
    return list(dict.fromkeys(value))


def read_listed(value: Any, at: str) -> list[tuple[int, Any]]:
    """Schemas of a list with their positions."""
    if not isinstance(value, list) or not value:
        refuse(at, f"{shown(value)} must be a list of at least one schema")
    return list(enumerate(value))


def escaped(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def shown(value: Any) -> str:
    """A value as a message shows it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def refuse(path: str, why: str) -> NoReturn:
    """Raise InvalidRequestError for a place of the schema."""
    raise InvalidRequestError(f"structured_outputs.json, at {path}: {why}")
