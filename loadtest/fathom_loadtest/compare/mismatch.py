"""In what two runs differ besides their figures: what forbids a comparison, and what a reader must know."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from fathom_loadtest.report.saved import SavedReport
from fathom_loadtest.report.settings import flat, written

Kind = Literal["workload", "model", "objectives", "length", "server", "machine", "ending", "version"]

_KINDS: Final[tuple[tuple[re.Pattern[str], Kind | None], ...]] = (
    (re.compile(r"target\.timeout_s|load\.(duration_s|requests)|warmup_\w+"), "length"),
    (re.compile(r"target\..*"), None),
    (re.compile(r"load\.(users|rates|start|factor|most|attainment|bisections)"), None),
    (re.compile(r"tasks\[\d+\]\.model"), "model"),
    (re.compile(r"slos\..*"), "objectives"),
    (re.compile(r".*"), "workload"),
)
"""What a setting decides; the first that fits. None: how the server is reached, and the load, which pairs stages."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing in which the runs differ: ``before`` in run A, ``after`` in run B, as text.

    Differences of ``workload`` make a comparison meaningless; the others are named beside it.
    """

    kind: Kind
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what}: {self.before} in A, {self.after} in B"


def mismatches(a: SavedReport, b: SavedReport) -> tuple[Mismatch, ...]:
    """Find every difference of settings, server, machine, ending and versions; workload first.

    Of reports of different schemas only the settings that both know are compared.
    """
    before, after = a.settings, b.settings
    names = set(before) | set(after) if a.schema == b.schema else set(before) & set(after)
    found: list[Mismatch] = []
    for name in sorted(names):
        kind = next(kind for pattern, kind in _KINDS if pattern.fullmatch(name))
        if kind is not None:
            found += _differing(kind, "", before, after, [name])
    found.sort(key=lambda mismatch: mismatch.kind != "workload")
    found += _differing("server", "", a.target, b.target)
    found += _differing("machine", "generator's ", a.environment, b.environment, ("cpu", "cores", "memory_bytes"))
    if not a.ending == b.ending == "completed":
        found.append(Mismatch("ending", "how the run ended", a.ending, b.ending))
    versions = [flat(run.environment.get("versions", {})) for run in (a, b)]
    found += _differing(
        "version", "commit", {"": a.environment.get("git_commit")}, {"": b.environment.get("git_commit")}
    )
    return (*found, *_differing("version", "", *versions))


def _differing(
    kind: Kind, prefix: str, before: Mapping[str, Any], after: Mapping[str, Any], names: Iterable[str] | None = None
) -> list[Mismatch]:
    wanted = sorted(set(before) | set(after)) if names is None else names
    return [
        Mismatch(kind, f"{prefix}{name}", written(before.get(name)), written(after.get(name)))
        for name in wanted
        if before.get(name) != after.get(name)
    ]
