"""Exact-match checkers: whether a model's reply is the answer."""

import json
from collections.abc import Callable


def check_text(reply: str, answer: str) -> bool:
    """Exact string match, outer white space apart."""
    return reply.strip() == answer.strip()


def check_json(reply: str, answer: str) -> bool:
    """Equality of the parsed JSON values; key order and spacing are free, types are not (1, true and 1.0 differ)."""
    try:
        parsed = json.loads(reply)
    except ValueError:
        return False
    return json.dumps(parsed, sort_keys=True) == json.dumps(json.loads(answer), sort_keys=True)


CHECKERS: dict[str, Callable[[str, str], bool]] = {"text": check_text, "json": check_json}


def check(checker: str, reply: str, answer: str) -> bool:
    """Apply the named checker.

    Raises:
        ValueError: the name is not in ``CHECKERS``.
    """
    if checker not in CHECKERS:
        raise ValueError(f"unknown checker {checker!r}; known: {', '.join(CHECKERS)}")
    return CHECKERS[checker](reply, answer)
