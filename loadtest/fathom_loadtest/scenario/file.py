"""A scenario from its TOML file and from flags, which override the file."""

import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.scenario.key import read_table
from fathom_loadtest.scenario.scenario import Scenario

MAX_SCENARIO_BYTES: Final = 1 << 20
_STEP: Final = re.compile(r"(?:^|\.)([A-Za-z0-9_-]+)|\[(\d+)\]")


def read_scenario(
    file: Path | None,
    overrides: Mapping[str, Any] | None = None,
    flags: Mapping[str, str] | None = None,
    single: Collection[str] = (),
) -> Scenario:
    """Build a scenario from a file and from values by key path (``load.users``, ``tasks[0].model``), which win.

    A value of None removes the file's. ``flags`` gives the name of the flag that stands for a key path; those in
    ``single`` are for scenarios of one task. Raises ScenarioError naming the flag, or file and key, the value and the
    remedy.
    """
    overrides, flags = overrides or {}, flags or {}
    raw = {} if file is None else _read_toml(file)
    try:
        _check_single(raw, overrides, flags, single)
        _drop_other_shape(raw, overrides.get("load.shape"))
        for path, value in overrides.items():
            _set(raw, path, value)
        raw.setdefault("target", {})
        scenario: Scenario = read_table(Scenario, raw, Path() if file is None else file.parent)
    except ScenarioError as error:
        raise _explained(error, file, overrides, flags) from error
    return scenario


def _check_single(
    raw: Mapping[str, Any], overrides: Mapping[str, Any], flags: Mapping[str, str], single: Collection[str]
) -> None:
    tasks = raw.get("tasks")
    if isinstance(tasks, list) and len(tasks) > 1:
        for path in overrides:
            if path in single and path in flags:
                raise ScenarioError(
                    f"is for a scenario of one task, and this one has {len(tasks)}; use --set {path}=…", path
                )


def _drop_other_shape(raw: dict[str, Any], shape: object) -> None:
    """Where flags choose another shape of load than the file's, keep of the file's only what limits a stage."""
    load = raw.get("load")
    if shape is not None and isinstance(load, dict) and load.get("shape") != shape:
        raw["load"] = {name: load[name] for name in ("duration_s", "requests") if name in load}


def parse_setting(text: str) -> tuple[str, Any]:
    """Read ``KEY.PATH=VALUE`` with a TOML value; a bare word is a text. Raises ScenarioError."""
    path, separator, value = text.partition("=")
    path, value = path.strip(), value.strip()
    if not separator or not value or "".join(match.group() for match in _STEP.finditer(path)) != path or not path:
        raise ScenarioError(f"--set {text!r} is not KEY=VALUE, for example --set load.rates=[1,2,4]")
    try:
        return path, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return path, value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SCENARIO_BYTES + 1)
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read ({error.strerror}); name a scenario's TOML file") from error
    if len(content) > MAX_SCENARIO_BYTES:
        raise ScenarioError(f"{path}: is larger than {MAX_SCENARIO_BYTES} bytes; it is no scenario")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # also what is no UTF-8, nested too deep, or no number for Python
        raise ScenarioError(f"{path}: is not TOML ({error}); see docs/loadtest.md") from error


def _set(raw: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at a key path, making the tables on the way."""
    steps: list[str | int] = [int(match[2]) if match[2] else match[1] for match in _STEP.finditer(path)]
    holder: Any = raw
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(step, int):
            if not isinstance(holder, list) or step > len(holder):
                raise ScenarioError("has no such entry; the entries before it come first", path)
            if step == len(holder):
                holder.append({})
        elif not isinstance(holder, dict):
            raise ScenarioError("is below a key that is no table", path)
        if following is None:
            if value is None and isinstance(holder, dict):
                holder.pop(step, None)
            else:
                holder[step] = value
            return
        if not isinstance(step, int):
            holder.setdefault(step, [] if isinstance(following, int) else {})
            if isinstance(following, str) and not isinstance(holder[step], dict):
                holder[step] = {}
        holder = holder[step]


def _explained(
    error: ScenarioError, file: Path | None, overrides: Mapping[str, Any], flags: Mapping[str, str]
) -> ScenarioError:
    """Name a fault's key as the user wrote it: as a flag, or as a key of the file."""
    for path, value in overrides.items():
        if value is not None and (error.key == path or error.key.startswith((f"{path}[", f"{path}."))):
            flag = flags.get(error.key) or f"{flags.get(path, f'--set {path}')}{error.key.removeprefix(path)}"
            return ScenarioError(f"{flag} {error.complaint}")
    if file is not None:
        return ScenarioError(f"{file}: {error}")
    complaint = error.complaint
    if complaint.startswith("needs exactly one of "):
        for path, flag in flags.items():
            complaint = re.sub(rf"\b{path.rpartition('.')[2]}\b", flag, complaint) if "." in path else complaint
    return ScenarioError(f"{flags.get(error.key, error.key)} {complaint}".strip())
