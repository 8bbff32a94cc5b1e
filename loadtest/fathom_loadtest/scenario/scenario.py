"""A load test as a whole: target, load, tasks, limits. Checked when built, so nothing later has to."""

from collections import Counter
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from fathom_loadtest.errors import ScenarioError
from fathom_loadtest.scenario.key import Key, check_ranges, tag_of
from fathom_loadtest.scenario.lengths import Length
from fathom_loadtest.scenario.loads import Load, Sweep, TraceReplay
from fathom_loadtest.scenario.slo import Slo
from fathom_loadtest.scenario.target import Target
from fathom_loadtest.scenario.task import TaskSpec


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load test.

    Before each stage there is a warm-up that no figure counts: ``warmup_requests`` for each user (in an open loop, of
    eight), or ``warmup_s`` seconds of the stage's own load. ``seed`` decides order, content, lengths and times of
    all requests.
    """

    target: Annotated[Target, Key("the server")]
    load: Annotated[Load, Key("who sends when")]
    tasks: Annotated[tuple[TaskSpec, ...], Key("what is asked; several make a mix")]
    slos: Annotated[tuple[Slo, ...], Key("objectives")] = ()
    warmup_requests: Annotated[int, Key("uncounted requests a user before each stage", minimum=0)] = 1
    warmup_s: Annotated[
        float | None, Key("uncounted seconds of a stage's own load before it, in place of `warmup_requests`", above=0)
    ] = None
    seed: Annotated[int, Key("decides order, content, lengths and times of all requests", minimum=0)] = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.tasks:
            raise ScenarioError("is empty; describe at least one kind of request in a [[tasks]] table", "tasks")
        self._check_names()
        self._check_content()
        self._check_slos()

    def _check_names(self) -> None:
        counts = Counter(task.label for task in self.tasks)
        for place, task in enumerate(self.tasks):
            if counts[task.label] > 1:
                raise ScenarioError(f"is {task.label!r}, as another task's; give each its own", f"tasks[{place}].name")

    def _check_content(self) -> None:
        if isinstance(self.load, TraceReplay):
            task = self.tasks[0]
            if len(self.tasks) > 1:
                raise ScenarioError(f"has {len(self.tasks)} entries; a trace is replayed with one", "tasks")
            if not task.streamed:
                raise ScenarioError(f"is {task.task!r}; a trace is replayed with generate or chat", "tasks[0].task")
            for name in ("prompts", "input_tokens", "output_tokens", "shared_prefix", "conversation"):
                if getattr(task, name) is not None:
                    raise ScenarioError("is given; the trace decides it, leave it out", f"tasks[0].{name}")
            return
        for place, task in enumerate(self.tasks):
            if task.prompts is None and task.input_tokens is None:
                raise ScenarioError("needs exactly one of prompts and input_tokens", f"tasks[{place}]")
            if task.sampling.ignore_eos and task.output_tokens is None:
                raise ScenarioError(
                    "is true, but answers would not end; give output_tokens", f"tasks[{place}].sampling.ignore_eos"
                )

    def _check_slos(self) -> None:
        names = Counter(slo.name for slo in self.slos)
        for name, count in names.items():
            if count > 1:
                raise ScenarioError("is given twice; give it once", f"slos.{name}")
            if name != "request_latency_ms" and not self.streamed:
                raise ScenarioError("needs a stream, which no task has; use request_latency_ms", f"slos.{name}")
        if isinstance(self.load, Sweep) and not self.slos:
            raise ScenarioError("is missing; a sweep needs an objective to break, such as ttft_ms = 200", "slos")

    @property
    def url(self) -> str:
        """The server's address."""
        return self.target.url

    @property
    def timeout_s(self) -> float:
        """Limit of one request in seconds."""
        return self.target.timeout_s

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are asked, each once."""
        return tuple(dict.fromkeys(task.model for task in self.tasks))

    @property
    def model(self) -> str:
        """The models' names as one text."""
        return " + ".join(self.models)

    @property
    def task(self) -> str:
        """The tasks' names as one text."""
        return " + ".join(task.label for task in self.tasks)

    @property
    def streamed(self) -> bool:
        """Whether any answers arrive in pieces."""
        return any(task.streamed for task in self.tasks)

    @property
    def input_tokens(self) -> Length | None:
        """The prompts' wished length, where all have the same: later turns of a conversation are longer."""
        return _only({None if task.conversation else task.input_tokens for task in self.tasks})

    @property
    def output_tokens(self) -> Length | None:
        """The answers' wished length, where all have the same."""
        return _only({task.output_tokens for task in self.tasks})

    def to_json(self) -> dict[str, Any]:
        """Every key as JSON holds it, under its own name and with its table's tag; keys without a value are left out.

        Only ``slos`` are written otherwise than in a file, as a list of ``name`` and ``limit_ms``.
        """
        content: dict[str, Any] = _json(self)
        return content


def _only(lengths: set[Length | None]) -> Length | None:
    return next(iter(lengths)) if len(lengths) == 1 else None


def _json(value: Any) -> Any:
    if is_dataclass(value):
        tag = tag_of(type(value))
        content = {} if tag is None else {tag[0]: tag[1]}
        given = ((field.name, getattr(value, field.name)) for field in fields(value))
        return content | {name: _json(each) for name, each in given if each is not None}
    if isinstance(value, tuple):
        return [_json(each) for each in value]
    return str(value) if isinstance(value, Path) else value
