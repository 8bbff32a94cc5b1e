"""What a deployment promises, and how fast it may use up what it may miss."""

from dataclasses import dataclass
from typing import Final

ANSWERED_SHARE: Final = 0.995
"""Of all answers whose callers stayed, those that neither fail nor miss their deadline."""

FIRST_TOKEN_WITHIN_S: Final = 2.5
"""A bound of ``metric_names.BUCKET_BOUNDS_S``, not a whole one: Prometheus 3 writes ``le="1"`` as ``le="1.0"``."""
FIRST_TOKEN_SHARE: Final = 0.95
"""Of all first tokens, those within ``FIRST_TOKEN_WITHIN_S`` of their request's arrival."""


@dataclass(frozen=True, slots=True)
class Burn:
    """A speed at which the allowance of a month is used up.

    It is seen in a long window, and in a short one as well, so that the alert ends soon after its cause: Google's SRE
    workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts". ``times`` is the speed, 1 being what lasts the month.
    """

    times: float
    long: str
    short: str
    severity: str
    lasts: str


BURNS: Final = (
    Burn(times=14.4, long="1h", short="5m", severity="critical", lasts="two days"),
    Burn(times=6, long="6h", short="30m", severity="warning", lasts="five days"),
)
WINDOWS: Final = ("5m", "30m", "1h", "6h")
"""Those of ``BURNS``, from the shortest."""
