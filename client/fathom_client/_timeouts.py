"""How long a client waits, a value."""

import math
from dataclasses import dataclass, fields
from typing import Final

from fathom_client.errors import InvalidArgumentError

GRACE_S: Final = 1.0
"""The gRPC deadline lies so far behind the one that the server is told: it gives up first, and says why."""


@dataclass(frozen=True, slots=True)
class Timeout:
    """Limits in seconds.

    ``connect_s``: one attempt to connect. ``request_s``: a whole answer, from sending to its last token or vector; None
    leaves it to the server. ``control_s``: questions of health and metadata. Raises InvalidArgumentError for a value
    that is not a positive number.
    """

    connect_s: float = 5.0
    request_s: float | None = 120.0
    control_s: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value is None and field.name == "request_s"):
                check_seconds(f"timeout.{field.name}", value)


def check_seconds(name: str, value: float) -> None:
    """Raise InvalidArgumentError unless ``value`` is a positive, finite number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgumentError(f"{name} is {value!r}; give a number of seconds above 0")
    if not (math.isfinite(value) and value > 0):
        raise InvalidArgumentError(f"{name} is {value}; give a number of seconds above 0")


def as_timeout(timeout: Timeout | float | None) -> Timeout:
    """A number limits the request alone, None lifts that limit."""
    if isinstance(timeout, Timeout):
        return timeout
    if timeout is not None:
        check_seconds("timeout", timeout)
    return Timeout(request_s=timeout)
