"""How long a stop takes: seconds for running answers, and until Docker kills."""

import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.compose.errors import ComposeError

DEFAULT_MAX_CONTEXT: Final = 2048
"""What fathom-export takes where a bundle names none."""

LEAST_DRAIN_S: Final = 30
MARGIN_S: Final = 5
GRACE_MARGIN_S: Final = 10


@dataclass(frozen=True, slots=True)
class StopTimes:
    """Whole seconds: ``drain_s`` for running answers, ``grace_s`` until the engine kills the container."""

    drain_s: int
    grace_s: int


def stop_times(max_tokens: int, itl_ms: float) -> StopTimes:
    """Times for answers of up to ``max_tokens``, ``itl_ms`` milliseconds between two tokens; the chart has the same.

    The longest answer ends within the drain, and a drain ends before Docker kills. Raises ComposeError for a latency or
    a length that is not above 0.
    """
    for name, value in (("max_tokens", max_tokens), ("--itl-ms", itl_ms)):
        if not (value > 0 and math.isfinite(value)):
            raise ComposeError(f"{name} is {value:g}; it must be a number above 0")
    drain_s = max(LEAST_DRAIN_S, math.ceil(max_tokens * itl_ms / 1000) + MARGIN_S)
    return StopTimes(drain_s, drain_s + GRACE_MARGIN_S)


def longest_answer(bundle: Path) -> int:
    """Tokens of the longest answer that any LLM of a bundle can give; raises ComposeError where it has none."""
    try:
        models = tomllib.loads(bundle.read_text(encoding="utf-8")).get("models", [])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ComposeError(f"{bundle} cannot be read ({error}); name a bundle.toml (docs/spec.md)") from error
    lengths = [
        model.get("limits", {}).get("max_context", DEFAULT_MAX_CONTEXT)
        for model in models
        if model.get("task") == "generate"
    ]
    if not lengths:
        raise ComposeError(f"{bundle} has no model with task generate, so that no answer is long: keep the defaults")
    return int(max(lengths))


def measured_itl_ms(report: Path) -> float:
    """Milliseconds between two tokens, p99 of the slowest stage, of a report.json; raises ComposeError without any."""
    try:
        stages = json.loads(report.read_text(encoding="utf-8"))["stages"]
        measured = [stage["figures"]["itl_ms"]["p99"] for stage in stages if stage["figures"]["itl_ms"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ComposeError(
            f"{report} cannot be read as a report of fathom-load ({error!r}); name the report.json of a run"
        ) from error
    if not measured:
        raise ComposeError(f"{report} has no stage in which tokens followed each other; load an LLM with fathom-load")
    return float(max(measured))
