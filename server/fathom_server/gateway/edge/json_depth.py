"""How deeply JSON is nested, seen in its bytes before anything parses it."""

import re
from itertools import accumulate
from typing import Final

_STRINGS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def is_deeper_than(body: bytes, depth: int) -> bool:
    """Whether arrays and objects stand in one another more than ``depth`` times. Brackets in strings do not count.

    What is no JSON gets an answer, too, which bounds the depth at which a parser would give up.
    """
    if body.count(b"[") + body.count(b"{") <= depth:
        return False
    brackets = _STRINGS.sub(b"", body).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > depth
