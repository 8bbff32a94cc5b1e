"""The stages of a run, one after the other; those of a sweep follow from what the stages before them showed."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from fathom_loadtest.scenario import Arrivals, ClosedLoop, Load, OpenLoop, Sweep, TraceReplay

Plan = Generator["Stage", float | None, int | None]
"""Gives stages, takes the share of each one's requests that met all SLOs, and returns the knee's number."""

_DIGITS: Final = 4
"""Significant digits of the rates that a sweep tries."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One level of load. ``users`` requests are under way at most; ``rate`` (requests/s) is None in a closed loop.

    In a trace the rate is the recording's own and known once it was read. ``ramp_s``: seconds over which the users of
    a closed loop begin. ``ramp_from``: rate at the beginning of an open loop's stage.
    """

    number: int
    users: int
    rate: float | None
    duration_s: float | None
    requests: int | None
    ramp_s: float = 0.0
    ramp_from: float | None = None
    arrivals: Arrivals | None = None


def plan(load: Load) -> Plan:
    """Give a load's stages."""
    match load:
        case ClosedLoop():
            for number, users in enumerate(load.users):
                yield Stage(number, users, None, load.duration_s, load.requests, ramp_s=load.ramp_s)
        case OpenLoop():
            for number, rate in enumerate(load.rates):
                yield Stage(
                    number, load.max_in_flight, rate, load.duration_s, load.requests,
                    ramp_from=load.ramp_from, arrivals=load.arrivals,
                )  # fmt: skip
        case TraceReplay():
            yield Stage(0, load.max_in_flight, None, load.duration_s, load.requests)
        case Sweep():
            return (yield from _sweep(load))
    return None


def _sweep(load: Sweep) -> Plan:
    """Climb until the SLOs break, then halve the interval between what held and what broke."""
    number, held, knee, broke = 0, 0.0, None, None
    level = load.start
    left = load.bisections
    while True:
        attainment = yield _level(load, number, level)
        if attainment is not None and attainment >= load.attainment:
            held, knee = level, number
        else:
            broke = level
        number += 1
        if broke is None:
            if level >= load.most:
                return knee
            level = min(max(_rounded(load, level * load.factor), _next(load, level)), load.most)
            continue
        middle = _rounded(load, (held + broke) / 2)
        if left == 0 or not held < middle < broke:
            return knee
        level, left = middle, left - 1


def _next(load: Sweep, level: float) -> float:
    """The least that is more: a sweep with a small factor still climbs."""
    return level + 1 if load.over == "users" else level


def _rounded(load: Sweep, level: float) -> float:
    return float(int(level)) if load.over == "users" else float(f"{level:.{_DIGITS}g}")


def _level(load: Sweep, number: int, level: float) -> Stage:
    if load.over == "users":
        return Stage(number, int(level), None, load.duration_s, load.requests)
    return Stage(number, load.max_in_flight, level, load.duration_s, load.requests, arrivals=load.arrivals)
