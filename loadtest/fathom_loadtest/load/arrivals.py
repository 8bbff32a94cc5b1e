"""Times at which the requests of an open loop are due.

Arrivals are a renewal process of unit rate whose clock is then stretched to the wished rate, so that bursts keep their
form while the rate changes (time rescaling: Cinlar, Introduction to Stochastic Processes, 1975, chapter 4.7).
"""

import math
import random
from collections.abc import Iterator

from fathom_loadtest.scenario import Arrivals


def due_times_s(
    arrivals: Arrivals, rate: float, rng: random.Random, *, ramp_from: float | None = None, ramp_s: float | None = None
) -> Iterator[float]:
    """Give the seconds after the stage's beginning at which each request is due, in order.

    ``rate`` is in requests/s. With ``ramp_from`` the rate grows (or falls) evenly from there over ``ramp_s`` seconds,
    where the times end.
    """
    for arrived in _unit_times(arrivals, rng):
        if ramp_from is None or ramp_s is None:
            yield arrived / rate
            continue
        due_s = _on_ramp(arrived, ramp_from, (rate - ramp_from) / ramp_s)
        if due_s is None or due_s >= ramp_s:
            return
        yield due_s


def _unit_times(arrivals: Arrivals, rng: random.Random) -> Iterator[float]:
    """Arrivals at one request a unit of time; those of a burst are at the same time."""
    now = 0.0 if arrivals.process == "constant" else arrivals.burst_size * _gap(arrivals, rng)
    while True:
        for _ in range(arrivals.burst_size):
            yield now
        now += arrivals.burst_size * _gap(arrivals, rng)


def _gap(arrivals: Arrivals, rng: random.Random) -> float:
    """The time between two arrivals, 1 on average."""
    if arrivals.process == "constant":
        return 1.0
    if arrivals.process == "poisson":
        return rng.expovariate(1.0)
    return rng.gammavariate(arrivals.burstiness, 1 / arrivals.burstiness)


def _on_ramp(arrived: float, start: float, slope: float) -> float | None:
    """When ``start * t + slope * t² / 2`` requests have come; None where a falling rate never brings so many."""
    if slope == 0:
        return arrived / start if start else None
    inside = start * start + 2 * slope * arrived
    return None if inside < 0 else (math.sqrt(inside) - start) / slope
