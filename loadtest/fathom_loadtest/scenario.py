"""What a load test does: target, users, lengths, limits. Checked when built, so nothing later has to."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from fathom_loadtest.errors import ScenarioError

Task = Literal["generate", "chat", "embed"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)

SLO_NAMES: Final = ("ttft_ms", "itl_ms", "request_latency_ms")
"""Figures of one request that a service level objective can bound, all in milliseconds."""


@dataclass(frozen=True, slots=True)
class Length:
    """A length in tokens, normally distributed around ``mean`` and never below 1."""

    mean: int
    stddev: float = 0.0

    def __post_init__(self) -> None:
        if self.mean < 1:
            raise ScenarioError(f"a length of {self.mean} tokens is out of range; it must be at least 1")
        if not 0 <= self.stddev < float("inf"):
            raise ScenarioError(
                f"a standard deviation of {self.stddev} tokens is out of range; it must not be negative"
            )


@dataclass(frozen=True, slots=True)
class Slo:
    """Service level objective: ``name`` (one of SLO_NAMES) of a request is at most ``limit_ms``."""

    name: str
    limit_ms: float

    def __post_init__(self) -> None:
        if self.name not in SLO_NAMES:
            raise ScenarioError(f"{self.name!r} is no SLO; valid: {', '.join(SLO_NAMES)}")
        if not 0 < self.limit_ms < float("inf"):
            raise ScenarioError(f"SLO {self.name}={self.limit_ms} is out of range; it must be above 0 milliseconds")

    @classmethod
    def parse(cls, text: str) -> tuple[Self, ...]:
        """Read ``ttft_ms=200,itl_ms=20``; raises ScenarioError naming the part that is wrong."""
        slos: dict[str, Self] = {}
        for part in text.split(","):
            name, separator, value = part.strip().partition("=")
            try:
                limit_ms = float(value)
            except ValueError:
                separator = ""
            if not separator:
                raise ScenarioError(f"SLO {part.strip()!r} is not NAME=MILLISECONDS, for example ttft_ms=200")
            if name in slos:
                raise ScenarioError(f"SLO {name} is given twice; give it once")
            slos[name] = cls(name, limit_ms)
        return tuple(slos.values())


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load test: a closed loop with ``users`` users in each stage, one stage after the other.

    A stage lasts ``duration_s`` seconds or ``requests`` requests (exactly one of them is given). Before each stage its
    users together send ``warmup_requests`` times their number, which no figure counts. Prompts come from
    ``prompt_file`` or are synthetic with ``input_tokens`` tokens (exactly one of them is given). ``output_tokens``
    becomes each request's ``max_tokens``; without it the server's default holds. ``ignore_eos`` asks the model to go
    on to that limit.
    """

    url: str
    model: str
    task: Task
    users: tuple[int, ...]
    duration_s: float | None = None
    requests: int | None = None
    warmup_requests: int = 1
    timeout_s: float = 60.0
    prompt_file: Path | None = None
    input_tokens: Length | None = None
    output_tokens: Length | None = None
    temperature: float | None = None
    ignore_eos: bool = False
    seed: int = 0
    slos: tuple[Slo, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ScenarioError(f"--task {self.task!r} is unknown; valid: {', '.join(TASKS)}")
        if not self.users or min(self.users) < 1:
            raise ScenarioError(f"--users {','.join(map(str, self.users))}: every stage needs at least 1 user")
        if (self.duration_s is None) == (self.requests is None):
            raise ScenarioError("give exactly one of --duration-s and --requests")
        if self.duration_s is not None and not 0 < self.duration_s < float("inf"):
            raise ScenarioError(f"--duration-s {self.duration_s} is out of range; it must be above 0 seconds")
        if self.requests is not None and self.requests < 1:
            raise ScenarioError(f"--requests {self.requests} is out of range; it must be at least 1")
        if self.warmup_requests < 0:
            raise ScenarioError(f"--warmup-requests {self.warmup_requests} is out of range; it must not be negative")
        if not 0 < self.timeout_s < float("inf"):
            raise ScenarioError(f"--timeout-s {self.timeout_s} is out of range; it must be above 0 seconds")
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise ScenarioError(f"--temperature {self.temperature} is out of range; it must not be negative")
        if self.ignore_eos and self.output_tokens is None:
            raise ScenarioError("--ignore-eos needs --output-tokens, or answers would not end")
        if (self.prompt_file is None) == (self.input_tokens is None):
            raise ScenarioError("give exactly one of --prompts and --input-tokens")
        if self.task == "embed":
            self._check_embed()

    def _check_embed(self) -> None:
        if self.output_tokens is not None or self.temperature is not None or self.ignore_eos:
            raise ScenarioError("--output-tokens, --temperature and --ignore-eos are for text; --task embed makes none")
        for slo in self.slos:
            if slo.name != "request_latency_ms":
                raise ScenarioError(f"SLO {slo.name} needs a stream; with --task embed use request_latency_ms")

    @property
    def streamed(self) -> bool:
        """Whether answers arrive in pieces."""
        return self.task != "embed"

    def to_json(self) -> dict[str, Any]:
        """Every field under its own name, as JSON holds it."""
        fields = asdict(self)
        fields["prompt_file"] = None if self.prompt_file is None else str(self.prompt_file)
        return fields
