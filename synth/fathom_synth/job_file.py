"""A job from its TOML file: read, checked, its paths taken relative to the file, its faults told in one line."""

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from fathom_synth.errors import JobError
from fathom_synth.job import Job

MAX_JOB_BYTES: Final = 1 << 20
Value = TypeVar("Value")


def read_job(path: Path, url: str | None = None, output: Path | None = None) -> Job:
    """Read a job; ``url`` and ``output`` stand in for the file's.

    Raises JobError giving file, key, value and remedy.
    """
    raw = _read_toml(path)
    try:
        job = Job.model_validate(raw)
    except ValidationError as error:
        raise JobError(f"{path}: {_explain(error, raw)}") from None
    job = _rooted(job, path.parent)
    if url is not None:
        job = job.model_copy(update={"server": job.server.model_copy(update={"url": url})})
    if output is not None:
        job = job.model_copy(update={"output": output})
    return job


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JOB_BYTES + 1)
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror}); name a job's TOML file") from error
    if len(content) > MAX_JOB_BYTES:
        raise JobError(f"{path}: is larger than {MAX_JOB_BYTES} bytes; it is no job")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise JobError(f"{path}: is not TOML ({error}); see docs/synth.md") from error


def _rooted(value: Value, folder: Path) -> Value:
    """The same tables with every path taken relative to the folder."""
    if isinstance(value, Path):
        return Path(os.path.normpath(folder / value))  # type: ignore[return-value] # a path for a path
    if isinstance(value, list):
        return [_rooted(each, folder) for each in value]  # type: ignore[return-value] # a list for a list
    if isinstance(value, BaseModel):
        return value.model_copy(
            update={name: _rooted(getattr(value, name), folder) for name in type(value).model_fields}
        )
    return value


def _explain(error: ValidationError, raw: Mapping[str, Any]) -> str:
    """The first fault as key, value and what would do."""
    fault = error.errors(include_url=False)[0]
    steps = _steps(fault["loc"], raw)
    key = _key(steps) or "the job"
    complaint = fault["msg"].removeprefix("Value error, ")
    match fault["type"]:
        case "missing":
            return f"{key} is missing; give it"
        case "extra_forbidden":
            known = _known_keys(steps[:-1], raw)
            near = difflib.get_close_matches(str(steps[-1]), known, n=1)
            return f"{key} is not a known key; " + (
                f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(known)}"
            )
        case "union_tag_invalid" | "literal_error":
            expected = fault.get("ctx", {}).get("expected_tags") or fault.get("ctx", {}).get("expected", "")
            tag = fault.get("ctx", {}).get("tag", fault["input"])
            where = f"{key}.filter" if fault["type"] == "union_tag_invalid" else key
            return f"{where} is {tag!r}; valid: {expected}"
        case "union_tag_not_found":
            return f"{key}.filter is missing; it says which filter it is"
        case "value_error":
            return complaint if not steps else f"{key} {complaint}"
    return f"{key} is {fault['input']!r}; {complaint[:1].lower()}{complaint[1:]}"


def _steps(location: Sequence[str | int], raw: Any) -> list[str | int]:
    """The keys of a fault's place, without the names that pydantic gives to the alternatives of a union."""
    steps: list[str | int] = []
    here = raw
    for place, step in enumerate(location):
        if isinstance(here, Mapping) and step == here.get("filter"):
            continue
        inside = isinstance(here, Mapping) and (step in here or place == len(location) - 1)
        if inside or (isinstance(here, list) and isinstance(step, int)):
            steps.append(step)
            here = here.get(step) if isinstance(here, Mapping) else here[step]
    return steps


def _key(steps: Sequence[str | int]) -> str:
    key = ""
    for step in steps:
        key += f"[{step}]" if isinstance(step, int) else f".{step}" if key else step
    return key


def _known_keys(steps: Sequence[str | int], raw: Mapping[str, Any]) -> list[str]:
    """The keys that the table at a place may have."""
    from fathom_synth import job
    from fathom_synth.filters import settings

    tables: dict[str, type[BaseModel]] = {
        "": job.Job,
        "server": job.ServerSettings,
        "teacher": job.TeacherSettings,
        "sampling": job.SamplingSettings,
        "prompts": job.PromptSettings,
    }
    names = [step for step in steps if isinstance(step, str)]
    last = names[-1] if names else ""
    if last != "filters":
        return list(tables[last].model_fields)
    kind = raw["filters"][steps[-1]]["filter"]
    for table in settings.FilterTable.__subclasses__():
        if kind in table.model_fields["filter"].annotation.__args__:  # type: ignore[union-attr]
            return list(table.model_fields)
    return []
