"""The shape of a load: who sends when. Each stage of a run offers one level of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.scenario.key import Key, check_ranges

_DURATION: Final = Key("seconds in which requests start, a stage", above=0)
_REQUESTS: Final = Key("requests a stage, in place of `duration_s`; a conversation counts as one", minimum=1)
_MAX_IN_FLIGHT: Final = Key(
    "most requests under way at once; one more waits, and is counted as late", minimum=1, maximum=100_000
)

DEFAULT_DURATION_S: Final = 30.0
DEFAULT_MAX_IN_FLIGHT: Final = 512


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How requests of an open loop follow each other around their rate."""

    process: Annotated[
        Literal["poisson", "constant", "gamma"],
        Key("`poisson`: independent of each other; `constant`: evenly spaced; `gamma`: as `burstiness` says"),
    ] = "poisson"
    burstiness: Annotated[
        float, Key("shape of `gamma`: 1 is Poisson, below it bursts and lulls, above it evener", above=0)
    ] = 1.0
    burst_size: Annotated[int, Key("requests that arrive together, the rate unchanged", minimum=1)] = 1

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.process != "gamma" and self.burstiness != 1.0:
            raise ScenarioError(f'is {self.burstiness}; it is for process = "gamma"', "burstiness")


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Each user sends its next request when the last one is answered: a server that slows down is asked less."""

    TAG: ClassVar = ("shape", "closed")

    users: Annotated[tuple[int, ...], Key("users at once; a list makes a stage of each", minimum=1, maximum=100_000)]
    ramp_s: Annotated[float, Key("seconds over which a stage's users begin, one after the other", minimum=0)] = 0.0
    duration_s: Annotated[float | None, _DURATION] = None
    requests: Annotated[int | None, _REQUESTS] = None

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_levels(self.users, "users")
        _check_limits(self.duration_s, self.requests)


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests come at their own times, whatever the server does: a stall is felt by all who come during it.

    Latencies are counted from the intended time.
    """

    TAG: ClassVar = ("shape", "open")

    rates: Annotated[tuple[float, ...], Key("requests a second; a list makes a stage of each", above=0)]
    ramp_from: Annotated[
        float | None, Key("rate at the beginning of a stage, from which it grows evenly to `rates`", minimum=0)
    ] = None
    arrivals: Annotated[Arrivals, Key("how requests follow each other")] = Arrivals()
    max_in_flight: Annotated[int, _MAX_IN_FLIGHT] = DEFAULT_MAX_IN_FLIGHT
    duration_s: Annotated[float | None, _DURATION] = None
    requests: Annotated[int | None, _REQUESTS] = None

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_levels(self.rates, "rates")
        _check_limits(self.duration_s, self.requests)
        if self.ramp_from is not None and self.duration_s is None:
            raise ScenarioError(f"is {self.ramp_from}; a ramp needs duration_s, over which it goes", "ramp_from")


@dataclass(frozen=True, slots=True)
class Sweep:
    """Stage after stage with more load until the SLOs break, then halving the interval down to the knee.

    A stage keeps the SLOs if at least ``attainment`` of its requests meet all of them; failed ones meet none.
    """

    TAG: ClassVar = ("shape", "sweep")

    over: Annotated[Literal["users", "rate"], Key("what grows: `users` of a closed loop, or the `rate` of an open one")]
    start: Annotated[float, Key("level of the first stage", above=0)] = 1.0
    factor: Annotated[float, Key("how many times as much each stage has as the one before", minimum=1.01)] = 2.0
    most: Annotated[float, Key("highest level to try", above=0)] = 1024.0
    attainment: Annotated[float, Key("share of requests that must meet all SLOs", above=0, maximum=1)] = 0.95
    bisections: Annotated[int, Key("stages between the last level that held and the first that broke", minimum=0)] = 4
    arrivals: Annotated[Arrivals, Key("how requests follow each other, over `rate`")] = Arrivals()
    max_in_flight: Annotated[int, _MAX_IN_FLIGHT] = DEFAULT_MAX_IN_FLIGHT
    duration_s: Annotated[float | None, _DURATION] = None
    requests: Annotated[int | None, _REQUESTS] = None

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_limits(self.duration_s, self.requests)
        if self.most < self.start:
            raise ScenarioError(f"is {self.most:g}; it must not be below start ({self.start:g})", "most")
        if self.over == "users" and self.start != int(self.start):
            raise ScenarioError(f"is {self.start}; a number of users is whole", "start")


@dataclass(frozen=True, slots=True)
class TraceReplay:
    """Requests at the times and of the lengths that a recorded trace has.

    ``file`` is Mooncake's JSON lines (``timestamp`` in ms, ``input_length``, ``output_length``, ``hash_ids``; prompts
    with the same id share that block) or Azure's CSV (``TIMESTAMP``, ``ContextTokens``, ``GeneratedTokens``).
    """

    TAG: ClassVar = ("shape", "trace")

    file: Annotated[Path, Key("the trace, relative to this file: Mooncake's JSONL or Azure's CSV")]
    speedup: Annotated[float, Key("how many times faster than recorded it is replayed", above=0)] = 1.0
    block_tokens: Annotated[int, Key("tokens of a block that `hash_ids` name", minimum=1)] = 512
    max_in_flight: Annotated[int, _MAX_IN_FLIGHT] = DEFAULT_MAX_IN_FLIGHT
    duration_s: Annotated[float | None, Key("seconds after which no further request starts", above=0)] = None
    requests: Annotated[int | None, Key("requests after which it ends", minimum=1)] = None

    def __post_init__(self) -> None:
        check_ranges(self)


Load = ClosedLoop | OpenLoop | Sweep | TraceReplay


def _check_levels(levels: tuple[float, ...], name: str) -> None:
    if not levels:
        raise ScenarioError("is empty; give at least one stage", name)


def _check_limits(duration_s: float | None, requests: int | None) -> None:
    if (duration_s is None) == (requests is None):
        raise ScenarioError("needs exactly one of duration_s and requests")
