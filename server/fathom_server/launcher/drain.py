"""The stop: no new work, what runs is finished, and an end by a deadline whatever clients hold open.

What Triton 2.51 does on SIGTERM, found by experiment. It takes no new HTTP connections and waits until none is left (a
client that keeps an idle one alive holds it up), meanwhile ready for gRPC as ever; then it is not ready, refuses
inference, waits for models that compute, unloads every model that nothing refers to, and then waits for its gRPC
streams without limit. Three things it cannot say: whether an HTTP connection waits for an answer; a decoupled model's
request does not count as in flight once ``execute`` has returned (an ensemble's does until its end); and an idle
stream, or one that was given up at the wrong moment, refers to the model of its last request, so that model is never
unloaded. The kernel knows of connections (``connections``), and a decoupled model that publishes the two gauges of
``metric_names`` of its requests.

Fathom's LLMs are told (``backends/fathom/drain_watch.py``): at once, to take nothing new, and just before the deadline,
to end what runs with UNAVAILABLE, on which a caller may try again.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fathom_client.metric_names import REQUESTS_RUNNING, REQUESTS_WAITING
from fathom_server.launcher.connections import connections
from fathom_server.launcher.ports import Ports
from fathom_server.launcher.process import Exited, SignalReceived, TritonProcess
from fathom_server.launcher.readiness import ServedModels, get
from fathom_server.launcher.triton_log import LiveModels, ModelsInFlight, ModelUnloaded, say

POLL_S: Final = 0.5
SETTLE_S: Final = 2.0
"""Nothing in flight and no model left for so long, and only idle connections keep Triton: longer than its own rounds of
one second, so that it can end by itself and a last response reaches its client."""

UNLOAD_S: Final = 5.0
"""The same while models are left: one of them may be unloading, which is not to be cut short for nothing."""

KILL_MARGIN_S: Final = 0.5
LAST_WORDS_S: Final = 1.0
"""How long before the end running requests are ended with a status, so that it reaches their callers."""

PENDING: Final = "nv_inference_pending_request_count"
ANSWERED: Final = ("nv_inference_request_success", "nv_inference_request_failure")
_SAMPLE: Final = re.compile(r'^(\w+)\{[^}]*\bmodel="([^"]+)"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(slots=True)
class _Progress:
    """What is known to be unfinished."""

    models: ServedModels
    live: set[str]
    models_in_flight: int | None = None
    live_models: LiveModels | None = None
    idle: set[str] = field(default_factory=set)
    pending: float = 0.0
    answered: float = 0.0
    has_clients: bool = True
    has_waiting_http: bool = True

    @property
    def busy(self) -> set[str]:
        """Decoupled models that may have requests."""
        return (self.live & self.models.decoupled) - self.idle

    @property
    def nothing_in_flight(self) -> bool:
        """Whether everything that was asked for has been answered, as far as can be known."""
        if self.live_models == LiveModels(0, 0) or not self.has_clients:
            return True
        if self.models_in_flight is None:  # Triton waits for HTTP connections, and counts nothing yet
            return not (self.has_waiting_http or self.busy or self.pending or self.models.opaque)
        calls = self.live_models.calls if self.live_models else 0
        return self.models_in_flight == 0 and calls == 0 and not self.busy

    @property
    def settle_s(self) -> float:
        """How long nothing may happen before only idle connections can keep Triton."""
        return SETTLE_S if self.live_models == LiveModels(0, 0) else UNLOAD_S

    def describe(self) -> str:
        """What is, or may be, unfinished."""
        if self.models_in_flight:
            return f"{self.models_in_flight} models still computed"
        if self.busy:
            return f"requests to {', '.join(sorted(self.busy))} may not have been finished"
        if self.models_in_flight is None:
            return "HTTP connections were still open"
        return "Triton was still busy"

    def look(self, host: str, ports: Ports) -> bool:
        """Look at metrics and connections; whether requests were answered since the last time."""
        clients = connections({ports.grpc, ports.http})
        if clients is not None:
            self.has_clients = bool(clients)
            self.has_waiting_http = any(each.port == ports.http and not each.is_idle for each in clients)
        samples = _samples(host, ports)
        if samples is None:  # Triton gives no metrics any more
            return False
        running, waiting = samples.get(REQUESTS_RUNNING, {}), samples.get(REQUESTS_WAITING, {})
        self.idle = {model for model in running if running[model] == 0 and waiting.get(model) == 0}
        self.pending = sum(samples.get(PENDING, {}).values())
        before, self.answered = self.answered, sum(sum(samples.get(name, {}).values()) for name in ANSWERED)
        return self.answered != before


def drain(process: TritonProcess, host: str, ports: Ports, models: ServedModels, drain_s: float) -> int:
    """Stop Triton within ``drain_s`` seconds; returns the status to exit with.

    Triton's own if it ended by itself; 0 if it was killed with only idle connections left; 1 if requests were, or may
    have been, cut off at the deadline; 128 plus the signal's number if a second signal cut the wait short.
    """
    began = time.monotonic()
    deadline = began + max(drain_s - KILL_MARGIN_S, drain_s / 2)
    last_words = deadline - min(LAST_WORDS_S, drain_s / 4)
    progress = _Progress(models, live=set(models.names))
    quiet_since: float | None = None
    say(f"stopping: running requests have {drain_s:g} s to finish")
    process.tell_models("refuse")
    process.terminate()
    next_poll = began
    cut_off = ""  # what was told to end unfinished
    while (now := time.monotonic()) < deadline:
        if now >= next_poll:
            next_poll = now + POLL_S
            if progress.look(host, ports):
                quiet_since = None
        if now >= last_words and not cut_off and not progress.nothing_in_flight:
            cut_off = progress.describe()
            process.tell_models("end")
        event = process.next_event(min(POLL_S, deadline - now))
        match event:
            case Exited(status) if not cut_off:
                return _ended(status, progress, now - began)
            case Exited():
                break
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
        elif not cut_off and now - quiet_since >= progress.settle_s:
            say(f"stopped after {now - began:.1f} s: nothing was in flight, idle client connections were cut off")
            return 0
    if progress.nothing_in_flight and not cut_off:
        say(f"stopped at the deadline ({drain_s:g} s): nothing was in flight, idle client connections were cut off")
        return 0
    say(f"ended at the deadline (--drain-s {drain_s:g}): {cut_off or progress.describe()}")
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


def _samples(host: str, ports: Ports) -> Mapping[str, dict[str, float]] | None:
    """Sums of the models' metrics, name → model → value; None where Triton gives none."""
    status, body = get(host, ports.metrics, "/metrics")
    if status != 200:
        return None
    found: dict[str, dict[str, float]] = {}
    for name, model, value in _SAMPLE.findall(body.decode()):
        of_name = found.setdefault(name, {})
        of_name[model] = of_name.get(model, 0.0) + float(value)
    return found
