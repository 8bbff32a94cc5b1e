"""What is told: a workload's figures in words, and all of them in a file."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.peers import machine
from benchmarks.speculation.deep_model import DEEP_INTERMEDIATE, DEEP_LAYERS
from benchmarks.speculation.repository import METHODS, newest_version

from fathom_server.engine.runner.load import served_graph


def line(result: dict[str, Any]) -> str:
    """A workload's figures in words."""
    guessing = METHODS[1:]
    parts = [f"{method} {result['tokens_per_s'][method]:.1f}/s" for method in METHODS]
    parts += [
        f"{name} " + " ".join(f"{result[name][method]:.2f}" for method in guessing)
        for name in ("ratio", "ratio_of_seconds_in_all", "ratio_of_calmest")
    ]
    parts.append("acceptance " + " ".join(str(result["acceptance"][method]) for method in guessing))
    return "  ".join(parts) + ("" if result["same_answers"] else "  ANSWERS DIFFER")


def write(output: Path, precision: str, repository: Path, results: dict[str, Any]) -> None:
    """Write what was measured; what an earlier run measured and this one did not stays in the file."""
    if output.is_file():
        merged = json.loads(output.read_text(encoding="utf-8"))["results"]
        for where, models in results.items():
            for model, workloads in models.items():
                merged.setdefault(where, {}).setdefault(model, {}).update(workloads)
        results = merged
    report = {
        "machine": machine.describe(),
        "versions": machine.versions(["onnxruntime", "numpy"]),
        "commit": machine.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "precision": precision,
        "graph": served_graph(newest_version(repository / "large_none")),
        "threads": len(os.sched_getaffinity(0)),
        "deep": {"layers": DEEP_LAYERS, "intermediate": DEEP_INTERMEDIATE},
        "results": results,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
