"""Numbers of a schema, kept to those that the grammar library reads exactly.

llguidance 1.9.1 holds numbers as 64-bit floats and reads decimal ones to the last place only up to 15 digits and powers
of ten up to 22 (``serde_json`` without its ``float_roundtrip`` feature).
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any, Final

MAX_EXACT_INTEGER: Final = 2**53
EXACT_DIGITS: Final = 15
EXACT_EXPONENT: Final = 22

STEP: Final = Decimal("1e-9")
RELATIVE_STEP: Final = Decimal("1e-14")
"""How near to a whole exclusive bound a number may come: the larger of the two."""


def is_exact(value: int | float) -> bool:
    """Whether the library reads a number as it is."""
    if isinstance(value, int):
        return abs(value) <= MAX_EXACT_INTEGER
    _, digits, exponent = Decimal(repr(value)).as_tuple()
    return len(digits) <= EXACT_DIGITS and abs(int(exponent)) <= EXACT_EXPONENT


def close_bounds(schema: dict[str, Any]) -> None:
    """Rewrite a schema's bounds in place, so that the library admits no number beyond them.

    Bounds of too many digits are rounded inwards. Whole exclusive ones become inclusive ones a small step away, unless
    only integers are allowed: the library admits the bound itself where the other bound is less than 1 away
    (``rx_float_range``: a fraction is optional after an exclusive whole left bound).
    """
    for bound, sign, tighter in (("inimum", 1, max), ("aximum", -1, min)):
        inclusive, exclusive = f"m{bound}", f"exclusiveM{bound}"
        for keyword in (inclusive, exclusive):
            if keyword in schema:
                schema[keyword] = _inwards(Decimal(repr(schema[keyword])), sign)
        value = schema.get(exclusive)
        if value is not None and value == int(value) and schema.get("type") != "integer":
            exact = Decimal(repr(schema.pop(exclusive)))
            near = _inwards(exact + sign * max(STEP, RELATIVE_STEP * abs(exact)), sign)
            schema[inclusive] = tighter(near, schema.get(inclusive, near))


def _inwards(value: Decimal, sign: int) -> int | float:
    if value == int(value) and abs(value) <= MAX_EXACT_INTEGER:
        return int(value)
    context = Context(prec=EXACT_DIGITS, rounding=ROUND_CEILING if sign > 0 else ROUND_FLOOR)
    return float(context.plus(value))
