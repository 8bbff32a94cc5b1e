"""What the twin is told: its models, their times, their faults. Checked when built, so nothing later has to."""

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from fathom_loadtest.errors import TwinError
from fathom_loadtest.twin.distribution import Distribution
from fathom_loadtest.twin.faults import FaultRates

EncoderTask = Literal["embed", "rerank", "classify"]
ENCODER_TASKS: Final[tuple[EncoderTask, ...]] = get_args(EncoderTask)
TASKS: Final = ("generate", *ENCODER_TASKS)

SETTINGS_PARAMETER: Final = "twin"
"""The config.pbtxt parameter that holds a model's settings and the seed, as JSON."""

_NO_FAULTS: Final[Mapping[str, float]] = {}


@dataclass(frozen=True, slots=True)
class GenerateTwin:
    """The twin of an LLM: ``name`` with its tokenizer model and its ensemble.

    ``ttft_ms`` runs from admission to the first token, ``itl_ms`` from token to token; both are milliseconds.
    ``output_tokens`` is an answer's length where neither ``max_tokens`` cuts it nor ``ignore_eos`` lengthens it.
    After the first token, ``tokens_per_response`` travel together. ``max_batch`` requests run at once, ``max_queue``
    wait, one more is refused. A stall lasts ``stall_s`` seconds, and without that until the caller leaves.
    """

    name: str = "chat"
    ttft_ms: Distribution = field(default_factory=lambda: Distribution(50.0))
    itl_ms: Distribution = field(default_factory=lambda: Distribution(10.0))
    output_tokens: Distribution = field(default_factory=lambda: Distribution(128.0))
    tokens_per_response: int = 1
    max_batch: int = 16
    max_queue: int = 256
    errors: Mapping[str, float] = field(default_factory=lambda: _NO_FAULTS)
    stall_rate: float = 0.0
    stall_s: float = math.inf
    break_rate: float = 0.0
    cut_rate: float = 0.0

    def __post_init__(self) -> None:
        _check_name(self.name)
        for name, low in (("tokens_per_response", 1), ("max_batch", 1), ("max_queue", 0)):
            _check_integer(name, getattr(self, name), low)
        if isinstance(self.stall_s, bool) or not isinstance(self.stall_s, int | float) or not self.stall_s > 0:
            raise TwinError(f"stall_s is {self.stall_s!r}; it must be a number of seconds above 0")
        self.fault_rates()

    def fault_rates(self) -> FaultRates:
        """Give what goes wrong, and how often."""
        return FaultRates(self.errors, self.stall_rate, self.break_rate, self.cut_rate)

    def summary(self) -> str:
        """Say in a line what it does."""
        return (
            f"{self.name}: generate, TTFT {self.ttft_ms} ms, ITL {self.itl_ms} ms, {self.output_tokens} tokens, "
            f"{self.max_batch} at once, {self.max_queue} waiting"
        )


@dataclass(frozen=True, slots=True)
class EncoderTwin:
    """The twin of an encoder. A batch of up to ``max_batch`` rows takes ``latency_ms`` milliseconds.

    ``instances`` batches run at once; what waits, waits in Triton's own queue. ``errors`` are refused by gRPC code.
    """

    name: str = "minilm"
    task: EncoderTask = "embed"
    latency_ms: Distribution = field(default_factory=lambda: Distribution(5.0))
    max_batch: int = 32
    instances: int = 1
    dimensions: int = 384
    labels: tuple[str, ...] = ("negative", "positive")
    errors: Mapping[str, float] = field(default_factory=lambda: _NO_FAULTS)

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.task not in ENCODER_TASKS:
            raise TwinError(f"task is {self.task!r}; valid: {', '.join(TASKS)}")
        for name in ("max_batch", "instances", "dimensions"):
            _check_integer(name, getattr(self, name), 1)
        if not self.labels or not all(isinstance(label, str) and label for label in self.labels):
            raise TwinError(f"labels is {list(self.labels)!r}; give at least one name")
        self.fault_rates()

    def fault_rates(self) -> FaultRates:
        """Give what goes wrong, and how often."""
        return FaultRates(self.errors)

    def summary(self) -> str:
        """Say in a line what it does."""
        return f"{self.name}: {self.task}, {self.latency_ms} ms a batch of up to {self.max_batch}"


ModelTwin = GenerateTwin | EncoderTwin


@dataclass(frozen=True, slots=True)
class TwinSettings:
    """A deployment's twin. The n-th request that a model gets meets the same chances for the same ``seed``."""

    models: tuple[ModelTwin, ...] = field(default_factory=lambda: (GenerateTwin(), EncoderTwin()))
    seed: int = 0

    def __post_init__(self) -> None:
        _check_integer("seed", self.seed, 0)
        if not self.models:
            raise TwinError("there are no models; write at least one [[models]] table")
        names = [name for model in self.models for name in served_names(model)]
        double = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if double is not None:
            raise TwinError(f"two models are called {double!r}; give each a name of its own")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a TOML file: ``seed``, and a ``[[models]]`` table a model. Raises TwinError naming file and key."""
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise TwinError(f"{path}: cannot be read ({error.strerror}); name a TOML file of settings") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise TwinError(f"{path}: is not TOML: {error}") from error
        _refuse_unknown(content, ("seed", "models"), f"{path}: ")
        tables = content.get("models", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise TwinError(f"{path}: models must be [[models]] tables")
        models = tuple(_read_model(table, f"{path}: models[{place}]: ") for place, table in enumerate(tables))
        try:
            return cls(models, content.get("seed", 0))
        except TwinError as error:
            raise TwinError(f"{path}: {error}") from None


def served_names(model: ModelTwin) -> tuple[str, ...]:
    """Give the names under which Triton serves a model and its companions."""
    if isinstance(model, GenerateTwin):
        return model.name, f"{model.name}_tokenizer", f"{model.name}_ensemble"
    return (model.name,)


def model_to_json(model: ModelTwin) -> dict[str, Any]:
    """Give what ``model_from_json`` reads, for a file that crosses from one process to another."""
    values: dict[str, Any] = {
        name: str(value) if isinstance(value, Distribution) else value
        for name, value in ((each.name, getattr(model, each.name)) for each in fields(model))
    }
    if isinstance(model, GenerateTwin):
        if model.stall_s == math.inf:
            del values["stall_s"]  # JSON has no infinity
        return {"task": "generate", **values}
    return values


def model_from_json(table: Mapping[str, Any]) -> ModelTwin:
    """Undo ``model_to_json``; raises TwinError, whose message begins with the key that is wrong."""
    return _read_model(dict(table), "")


def _read_model(table: dict[str, Any], where: str) -> ModelTwin:
    task = table.get("task", "generate")
    if task not in TASKS:
        raise TwinError(f"{where}task is {task!r}; valid: {', '.join(TASKS)}")
    kind: type[ModelTwin] = GenerateTwin if task == "generate" else EncoderTwin
    _refuse_unknown(table, ("task", *(each.name for each in fields(kind))), where)
    values: dict[str, Any] = {} if task == "generate" else {"task": task}
    for name, value in table.items():
        if name != "task":
            try:
                values[name] = _READERS.get(name, _as_it_is)(value)
            except TwinError as error:
                raise TwinError(f"{where}{name}: {error}") from None
    try:
        return kind(**values)
    except TwinError as error:
        raise TwinError(f"{where}{error}") from None


def _as_it_is(value: object) -> object:
    return value


def _rates(value: object) -> object:
    if not isinstance(value, dict):
        raise TwinError(f"{value!r} is no table of gRPC codes and shares, such as {{ UNAVAILABLE = 0.01 }}")
    return value


def _labels(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise TwinError(f"{value!r} is no list of names")
    return tuple(value)


_READERS: Final[Mapping[str, Callable[[object], object]]] = {
    "ttft_ms": Distribution.parse,
    "itl_ms": Distribution.parse,
    "output_tokens": Distribution.parse,
    "latency_ms": Distribution.parse,
    "errors": _rates,
    "labels": _labels,
}


def _refuse_unknown(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    stranger = next((name for name in table if name not in known), None)
    if stranger is not None:
        raise TwinError(f"{where}{stranger!r} is unknown; valid: {', '.join(known)}")


def _check_name(name: object) -> None:
    usable = isinstance(name, str) and name and not name.startswith(".") and not set(name) & set('/\\\0"')
    if not usable:
        raise TwinError(f"name is {name!r}; it must be a model's name, without a slash")


def _check_integer(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise TwinError(f"{name} is {value!r}; it must be a whole number of at least {low}")
