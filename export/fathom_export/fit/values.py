"""Values for the chart, as YAML: a chosen machine, and scaling by what a load test's sweep showed."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fathom_export.errors import FitError
from fathom_export.fit.answer import Answer
from fathom_export.fit.plan import Candidate
from fathom_export.fit.service import HEADROOM
from fathom_export.fit.workload import Objectives

REPORT_SCHEMA: Final = "fathom-loadtest/2"
Kind = Literal["hpa", "keda"]
Percentile = Literal["avg", "p50", "p90", "p95", "p99"]

_MIB: Final = 1 << 20
_POD_ROOM: Final = 1.25
"""A pod's memory limit over what its processes take: shared memory and page cache count towards it, too."""
_LEAST_MAX_REPLICAS: Final = 2
_SMALLEST_TARGET: Final = 0.5


def helm_values(answer: Answer, name: str) -> dict[str, Any]:
    """The chart's values for the best candidate; raises FitError where there is none."""
    chosen = answer.chosen
    if chosen is None:
        raise FitError(f"nothing meets this, so there are no values to write; {answer.shortfall}")
    values: dict[str, Any] = {"bundle": bundle_text(answer, chosen, name)}
    server: dict[str, Any] = {}
    if chosen.replicas is not None:
        server["replicas"] = chosen.replicas
    if chosen.target.gpu is None:
        request = math.ceil(chosen.memory.total * _POD_ROOM / _MIB)
        server["resources"] = {"requests": {"memory": f"{request}Mi"}, "limits": {"memory": f"{request}Mi"}}
    else:
        server |= {"image": {"target": "gpu"}, "gpu": {"count": chosen.ways, "resource": chosen.target.gpu.resource}}
        if chosen.form.runner == "plan":
            values["plan"] = {"models": [name], "precision": chosen.form.precision}
            values["storage"] = {"kind": "perPod"}
    values["server"] = server
    return values


def bundle_text(answer: Answer, chosen: Candidate, name: str) -> str:
    """The candidate as a bundle.toml; several GPUs a replica are vLLM's."""
    workload, service = answer.workload, chosen.service
    batch = chosen.most_requests if service is None else service.batch
    lines = [
        "[[models]]",
        f"name = {json.dumps(name)}",
        f"source = {json.dumps(answer.source.given)}",
        'task = "generate"',
        f'precision = "{chosen.form.precision}"',
        f"limits = {{ max_batch = {batch}, max_context = {workload.context} }}",
    ]
    if chosen.ways > 1:
        lines += ['engine = "vllm"', f"vllm = {{ tensor_parallel_size = {chosen.ways} }}"]
    else:
        dialect = {"cuda": "cuda", "plan": "portable"}.get(chosen.form.runner, "cpu")
        lines.append(f'dialect = "{dialect}"')
    if chosen.form.precision == "int4":
        lines.append(f"quantisation = {{ block_size = {chosen.form.block_size} }}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Level:
    """A stage of a sweep: its load, the figures that were asked for, what it completed, who waited."""

    label: str
    figures: Mapping[str, float]
    requests_per_s: float
    waiting: float | None
    queue_s: float | None


def read_sweep(path: Path, percentile: Percentile, objectives: Objectives) -> list[Level]:
    """The stages of a report.json by rising load; raises FitError naming the file and what it lacks."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = raw["schema"]
        if schema != REPORT_SCHEMA:
            raise FitError(f"{path} is of schema {schema!r}; give a report.json of fathom-load run ({REPORT_SCHEMA})")
        levels = [_level(stage, percentile, objectives, path) for stage in raw["stages"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FitError(
            f"{path} is no report of fathom-load that can be read ({error!r}); give its report.json"
        ) from error
    if not levels:
        raise FitError(f"{path} holds no stage; run the sweep again")
    return sorted(levels, key=lambda level: level.requests_per_s)


def _level(stage: Mapping[str, Any], percentile: Percentile, objectives: Objectives, path: Path) -> Level:
    figures, found = stage["figures"], {}
    label = (
        f"stage {stage['stage']} ({stage['users']} users)" if stage["rate"] is None else f"{stage['rate']:g} a second"
    )
    for name in objectives.given():
        if figures[name] is None:
            raise FitError(f"{path}: {label} has no {name}; its requests were not of a task that has it")
        found[name] = float(figures[name][percentile])
    engines = (stage["server"] or {}).get("engines") or {}
    waiting = [float(engine["waiting"]["avg"]) for engine in engines.values()]
    queue = [float(engine["queue"]["avg_ms"]) for engine in engines.values() if engine["queue"] is not None]
    return Level(
        label=label,
        figures=found,
        requests_per_s=float(figures["request_throughput"] or 0.0),
        waiting=sum(waiting) if waiting else None,
        queue_s=max(queue) / 1e3 if queue else None,
    )


def scaling_values(
    levels: list[Level], objectives: Objectives, kind: Kind, peak: float | None, low: float | None, prometheus: str
) -> dict[str, Any]:
    """Autoscaling for a deployment of which the sweep loaded one replica.

    The highest load that kept the SLOs is a replica's capacity. Pods are added where more requests wait (hpa), or they
    wait longer (keda), than at that load, or half of the way to the load above it, which broke them. Raises FitError
    where no load kept the SLOs, saying what came nearest.
    """
    bounds = objectives.given()
    if not bounds:
        raise FitError("--slo is missing; say what must hold, such as --slo ttft_ms=500,itl_ms=50")
    kept = [level for level in levels if all(level.figures[name] <= bound for name, bound in bounds.items())]
    if not kept:
        best = min(levels, key=lambda level: max(level.figures[name] / bound for name, bound in bounds.items()))
        figures = ", ".join(f"{name} {best.figures[name]:.4g} (asked: {bound:g})" for name, bound in bounds.items())
        raise FitError(f"no stage of the sweep kept the SLOs; nearest is {best.label}: {figures}")
    held = kept[-1]
    above = next((level for level in levels if level.requests_per_s > held.requests_per_s and level not in kept), None)
    pick = _waiting if kind == "hpa" else _queue
    target = max(pick(held), _SMALLEST_TARGET if kind == "hpa" else 0.05)
    if above is not None:
        target = max(target, (pick(held) + pick(above)) / 2)
    replicas = [1 if low is None else _replicas(low, held), _LEAST_MAX_REPLICAS]
    if peak is not None:
        replicas[1] = _replicas(peak, held)
    values: dict[str, Any] = {
        "autoscaling": {
            "kind": kind,
            "metric": "waitingRequests" if kind == "hpa" else "queueTime",
            "target": round(target, 3),
            "minReplicas": replicas[0],
            "maxReplicas": max(replicas),
        }
    }
    if kind == "keda":
        if not prometheus:
            raise FitError("--prometheus-url is missing; KEDA asks Prometheus itself: give its address")
        values["autoscaling"]["prometheusUrl"] = prometheus
        values["serviceMonitor"] = {"enabled": True}
    return values


def _replicas(rate: float, held: Level) -> int:
    return max(1, math.ceil(rate / (held.requests_per_s * HEADROOM)))


def _waiting(level: Level) -> float:
    if level.waiting is None:
        raise FitError(
            f"the report says nothing of the server's queue at {level.label}; run the sweep with the server's metrics "
            "in reach (docs/loadtest.md)"
        )
    return level.waiting


def _queue(level: Level) -> float:
    if level.queue_s is None:
        raise FitError(
            f"the report says nothing of the time in the queue at {level.label}; run the sweep with the server's "
            "metrics in reach (docs/loadtest.md)"
        )
    return level.queue_s


def as_yaml(values: Mapping[str, Any], indent: int = 0) -> str:
    """YAML of nested mappings, lists and scalars; texts of several lines as blocks."""
    lines = []
    space = "  " * indent
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines.append(f"{space}{key}:\n{as_yaml(value, indent + 1)}")
        elif isinstance(value, str) and "\n" in value:
            block = "".join(f"{space}  {line}\n" for line in value.splitlines())
            lines.append(f"{space}{key}: |\n{block}")
        else:
            lines.append(f"{space}{key}: {json.dumps(value)}\n")
    return "".join(lines)
