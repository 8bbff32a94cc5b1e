"""Recording rules and alerts, in Prometheus's form."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from deploy.observability import objectives
from deploy.observability.expressions import FAULTS, GATEWAY, MODEL, PLACE, SERVER, SERVER_ERRORS, Scope
from fathom_client import metric_names as engine
from fathom_loadtest.server_side import names as triton
from fathom_server.gateway.edge import metric_names as gateway

HEAD: Final = "# Written by `python -m deploy.observability`; change deploy/observability/rules.py.\n"
MANUAL: Final = "docs/observability.md"

FAILED: Final = "fathom:answers_failed:ratio_rate"
LATE: Final = "fathom:first_tokens_late:ratio_rate"
"""Recorded shares; the window is the end of the name."""

_SCOPE: Final = Scope()
_OF_MODEL: Final = "{{ $labels.model }} of {{ $labels.job }}"
_AT: Final = "{{ $labels.instance }}"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert: it fires when ``expression`` has held for ``holds``."""

    name: str
    expression: str
    holds: str
    severity: str
    summary: str
    description: str

    def as_rule(self) -> dict[str, Any]:
        """The rule as Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.holds,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook": f"{MANUAL}#{self.name.lower()}",
            },
        }


def rules_text() -> str:
    """The rule file: recorded shares, then the alerts by what they are about."""
    groups = [
        {"name": "fathom-shares", "rules": list(_recorded())},
        *(
            {"name": f"fathom-{name}", "rules": [alert.as_rule() for alert in alerts]}
            for name, alerts in ALERTS.items()
        ),
    ]
    text: str = yaml.safe_dump({"groups": groups}, sort_keys=False, width=120, allow_unicode=True)
    return HEAD + text


def alerts() -> tuple[Alert, ...]:
    """All alerts, in the order of the file."""
    return tuple(alert for group in ALERTS.values() for alert in group)


def _recorded() -> Iterator[dict[str, str]]:
    for window in objectives.WINDOWS:
        scope = _SCOPE.over(window)
        yield {"record": FAILED + window, "expr": scope.share_failed(MODEL)}
        within = scope.share_within(objectives.FIRST_TOKEN_WITHIN_S, engine.TIME_TO_FIRST_TOKEN, MODEL)
        yield {"record": LATE + window, "expr": f"1 - {within}"}


def _burning(recorded: str, kept: float, burn: objectives.Burn) -> str:
    limit = f"{burn.times * (1 - kept):.6g}"
    return f"{recorded}{burn.long} > {limit} and {recorded}{burn.short} > {limit}"


def _speed(burn: objectives.Burn) -> str:
    return "Fast" if burn.severity == "critical" else "Slowly"


_OBJECTIVES: Final = tuple(
    alert
    for burn in objectives.BURNS
    for alert in (
        Alert(
            f"FathomAnswersFail{_speed(burn)}",
            _burning(FAILED, objectives.ANSWERED_SHARE, burn),
            "2m",
            burn.severity,
            f"Answers of {_OF_MODEL} fail {burn.times:g} times as often as they may",
            f"{{{{ $value | humanizePercentage }}}} failed or missed their deadline within {burn.long}; "
            f"{1 - objectives.ANSWERED_SHARE:.2%} may. What may fail in a month lasts {burn.lasts} at this speed.",
        ),
        Alert(
            f"FathomFirstTokensLate{_speed(burn)}",
            _burning(LATE, objectives.FIRST_TOKEN_SHARE, burn),
            "2m",
            burn.severity,
            f"First tokens of {_OF_MODEL} are late {burn.times:g} times as often as they may be",
            f"{{{{ $value | humanizePercentage }}}} came later than {objectives.FIRST_TOKEN_WITHIN_S:g} s within "
            f"{burn.long}; {1 - objectives.FIRST_TOKEN_SHARE:.0%} may.",
        ),
    )
)

_READINESS: Final = (
    Alert(
        "FathomServerDown",
        f"up{{{SERVER}}} == 0",
        "2m",
        "critical",
        f"Server {_AT} does not answer",
        "Prometheus could not read its metrics for two minutes: it is gone, starting, or cannot be reached.",
    ),
    Alert(
        "FathomServersAbsent",
        f"absent(up{{{SERVER}}})",
        "5m",
        "critical",
        "There is no server at all",
        "Prometheus knows no target of this job: nothing is deployed, or discovery does not find it.",
    ),
    Alert(
        "FathomServerNotReady",
        f"up{{{SERVER}}} == 1 unless on ({', '.join((*PLACE, 'instance'))}) {_SCOPE.series(triton.SUCCESS)}",
        "15m",
        "warning",
        f"Server {_AT} has loaded no model for 15 minutes",
        "Triton answers, but not one model is ready. The log of fathom-serve names the one that still loads.",
    ),
    Alert(
        "FathomGatewayDown",
        f"up{{{GATEWAY}}} == 0",
        "2m",
        "critical",
        f"Gateway {_AT} does not answer",
        "Prometheus could not read its metrics for two minutes.",
    ),
    Alert(
        "FathomTargetNotReady",
        f"{_SCOPE.series(gateway.TARGET_READY)} == 0",
        "5m",
        "critical",
        f"Gateway {_AT} finds no server that is ready",
        "For five minutes no server said that it is ready with all its models; callers get status 503.",
    ),
)

_PRESSURE: Final = (
    Alert(
        "FathomQueueGrows",
        f"sum by ({', '.join(MODEL)}) (min_over_time({_SCOPE.series(engine.REQUESTS_WAITING)}[10m])) > 0 "
        f"and sum by ({', '.join(MODEL)}) (deriv({_SCOPE.series(engine.REQUESTS_WAITING)}[10m])) > 0",
        "5m",
        "warning",
        f"The queue of {_OF_MODEL} grows",
        "Requests have waited for ten minutes on end, and there are more and more of them: more arrive than are "
        "answered. Add replicas, or let callers in more slowly.",
    ),
    Alert(
        "FathomPendingGrows",
        f"sum by ({', '.join(MODEL)}) (min_over_time({_SCOPE.series(triton.PENDING)}[10m])) > 0 "
        f"and sum by ({', '.join(MODEL)}) (deriv({_SCOPE.series(triton.PENDING)}[10m])) > 0",
        "5m",
        "warning",
        f"Triton's queue of {_OF_MODEL} grows",
        "Encoders and other batched models wait in Triton's own queue, which has not been empty for ten minutes.",
    ),
    Alert(
        "FathomKvCacheFull",
        f"min_over_time({_SCOPE.series(engine.KV_CACHE_USAGE)}[10m]) > 0.95",
        "5m",
        "warning",
        f"The KV cache of {_OF_MODEL} at {_AT} is full",
        "{{ $value | humanizePercentage }} of its blocks are held, for ten minutes at least. Requests wait for room "
        "though there may be slots: shorten contexts, add replicas, or give the cache more memory.",
    ),
    Alert(
        "FathomPreemptions",
        f"{_SCOPE.rate(engine.PREEMPTIONS, MODEL)} > 0.1",
        "10m",
        "warning",
        f"Answers of {_OF_MODEL} give their cache up to others",
        "{{ $value | humanize }} a second lose their blocks and are computed again.",
    ),
)

_FAULTS_AND_RESTARTS: Final = (
    Alert(
        "FathomEngineFaults",
        f"{_SCOPE.increase(engine.REQUEST_ENDS, MODEL, FAULTS)} > 0",
        "0m",
        "warning",
        f"Requests to {_OF_MODEL} ended by a fault of the engine's own",
        "Each is in the server's log with its request id.",
    ),
    Alert(
        "FathomGatewayErrors",
        f"{_SCOPE.rate(gateway.REQUESTS, PLACE, SERVER_ERRORS)} / {_SCOPE.rate(gateway.REQUESTS, PLACE)} > 0.05",
        "5m",
        "warning",
        "Gateway {{ $labels.job }} answers with errors",
        "{{ $value | humanizePercentage }} of its answers have a status of 500 and above.",
    ),
    Alert(
        "FathomServerRestarts",
        f"changes({_SCOPE.series(engine.ENGINE_START)}[30m]) > 1",
        "0m",
        "warning",
        f"Model {_OF_MODEL} at {_AT} was started again and again",
        "{{ $value }} times within 30 minutes. Triton, or the model's process, ends by itself: the log of fathom-serve "
        "says which, and gives up after three times in ten minutes.",
    ),
    Alert(
        "FathomGatewayRestarts",
        f"changes({_SCOPE.series('process_start_time_seconds')}[30m]) > 1",
        "0m",
        "warning",
        f"Gateway {_AT} was started again and again",
        "{{ $value }} times within 30 minutes.",
    ),
)

ALERTS: Final = {
    "objectives": _OBJECTIVES,
    "readiness": _READINESS,
    "pressure": _PRESSURE,
    "faults": _FAULTS_AND_RESTARTS,
}
