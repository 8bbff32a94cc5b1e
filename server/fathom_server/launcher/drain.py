"""The stop: no new work, what runs is finished, and an end by a deadline whatever clients hold open.

What Triton 2.51 does on SIGTERM, found by experiment. It closes HTTP and waits until no HTTP connection is left (a
client that keeps an idle one alive holds it up), refuses inference, waits for models that compute, unloads every model
that nothing refers to, and then waits for its gRPC streams without limit. Two things it cannot say: a decoupled model's
request does not count as in flight once ``execute`` has returned (an ensemble's does until its end), and an idle stream
refers to the model of its last request, so that model is never unloaded. A decoupled model that publishes the two
gauges of ``metric_names`` settles both.
"""

import re
import time
from dataclasses import dataclass, field
from typing import Final

from fathom_client.metric_names import REQUESTS_RUNNING, REQUESTS_WAITING
from fathom_server.launcher.ports import Ports
from fathom_server.launcher.process import Exited, SignalReceived, TritonProcess
from fathom_server.launcher.readiness import get
from fathom_server.launcher.triton_log import LiveModels, ModelsInFlight, ModelUnloaded, say

POLL_S: Final = 0.5
SETTLE_S: Final = 2.0
"""Nothing in flight and no model left for so long, and only idle connections keep Triton: longer than its own rounds of
one second, so that it can end by itself and a last response reaches its client."""

UNLOAD_S: Final = 5.0
"""The same while models are left: one of them may be unloading, which is not to be cut short for nothing."""

KILL_MARGIN_S: Final = 0.5


@dataclass(slots=True)
class _Progress:
    """What is known to be unfinished."""

    live: set[str]
    decoupled: frozenset[str]
    models_in_flight: int | None = None
    live_models: LiveModels | None = None
    idle: set[str] = field(default_factory=set)

    @property
    def nothing_in_flight(self) -> bool:
        """Whether everything that was asked for has been answered, as far as can be known."""
        if self.live_models == LiveModels(0, 0):
            return True
        calls = self.live_models.calls if self.live_models else 0
        return self.models_in_flight == 0 and calls == 0 and not (self.live & self.decoupled) - self.idle

    def describe(self) -> str:
        """What is, or may be, unfinished."""
        if self.models_in_flight:
            return f"{self.models_in_flight} models still computed"
        if self.models_in_flight is None:
            return "HTTP connections were still open"
        return f"requests to {', '.join(sorted((self.live & self.decoupled) - self.idle))} may not have been finished"


def drain(
    process: TritonProcess,
    host: str,
    ports: Ports,
    models: tuple[str, ...],
    decoupled: frozenset[str],
    drain_s: float,
) -> int:
    """Stop Triton within ``drain_s`` seconds; returns the status to exit with.

    Triton's own if it ended by itself; 0 if it was killed with only idle connections left; 1 if requests were, or may
    have been, cut off at the deadline; 128 plus the signal's number if a second signal cut the wait short.
    """
    began = time.monotonic()
    deadline = began + max(drain_s - KILL_MARGIN_S, drain_s / 2)
    progress = _Progress(live=set(models), decoupled=decoupled)
    quiet_since: float | None = None
    say(f"stopping: running requests have {drain_s:g} s to finish")
    process.terminate()
    next_poll = began
    while (now := time.monotonic()) < deadline:
        if now >= next_poll and progress.live & decoupled:
            progress.idle = _idle_models(host, ports, otherwise=progress.idle)
            next_poll = now + POLL_S
        event = process.next_event(min(POLL_S, deadline - now))
        match event:
            case Exited(status):
                return _ended(status, progress, now - began)
            case SignalReceived(number):
                say("asked again: ending at once")
                return 128 + number
            case ModelUnloaded(name):
                progress.live.discard(name)
                quiet_since = None
            case ModelsInFlight(count):
                progress.models_in_flight = count
            case LiveModels():
                progress.live_models = event
            case _:
                pass
        if not progress.nothing_in_flight:
            quiet_since = None
        elif quiet_since is None:
            quiet_since = now
        elif now - quiet_since >= (SETTLE_S if progress.live_models == LiveModels(0, 0) else UNLOAD_S):
            say(f"stopped after {now - began:.1f} s: nothing was in flight, idle client connections were cut off")
            return 0
    if progress.nothing_in_flight:
        say(f"stopped at the deadline ({drain_s:g} s): nothing was in flight, idle client connections were cut off")
        return 0
    say(f"ended at the deadline (--drain-s {drain_s:g}): {progress.describe()}")
    return 1


def _ended(status: int, progress: _Progress, seconds: float) -> int:
    if status == 0:
        say(f"stopped after {seconds:.1f} s")
        return 0
    if progress.nothing_in_flight:  # Triton's own time was up, for idle connections alone
        say(f"stopped after {seconds:.1f} s: nothing was in flight, idle client connections were cut off")
        return 0
    say(f"Triton ended with status {status} after {seconds:.1f} s: {progress.describe()}")
    return status


def _idle_models(host: str, ports: Ports, otherwise: set[str]) -> set[str]:
    """Models whose gauges say that no request runs or waits; ``otherwise`` when Triton gives no metrics any more."""
    status, body = get(host, ports.metrics, "/metrics")
    if status != 200:
        return otherwise
    gauges: dict[str, dict[str, float]] = {REQUESTS_RUNNING: {}, REQUESTS_WAITING: {}}
    for name, model, value in re.findall(r'^(\w+)\{[^}]*\bmodel="([^"]+)"[^}]*\} (\S+)$', body.decode(), re.MULTILINE):
        if name in gauges:
            gauges[name][model] = float(value)
    running, waiting = gauges.values()
    return {model for model in running if running[model] == 0 and waiting.get(model) == 0}
