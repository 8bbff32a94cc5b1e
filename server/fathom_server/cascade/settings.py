"""What a cascade is told: ``cascade.json`` beside its config.pbtxt's version, written by export, read here."""

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from fathom_server.cascade.logistic import Logistic
from fathom_server.errors import SettingsError

CASCADE_FILE: Final = "cascade.json"
HOOK_FILE: Final = "trust_hook.py"
"""The user's own signal, copied beside ``CASCADE_FILE``."""

SignalName = Literal[
    "mean_logprob", "min_logprob", "mean_entropy", "max_entropy", "agreement", "verifier", "learned", "hook"
]
TOKEN_SIGNALS: Final = frozenset({"mean_logprob", "min_logprob", "mean_entropy", "max_entropy"})
"""Signals that a beginning of an answer has already."""

HIGHER_IS_DOUBTFUL: Final = frozenset({"mean_entropy", "max_entropy"})
"""An answer is handed over where these are above the threshold; where the others are below it."""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """Which requests go to the large model straight away.

    ``max_prompt_characters``: those with a longer prompt, 0 for no bound. ``large_tasks``: those whose request
    parameter ``task`` is one of these. ``large_patterns``: those in whose last user message one of these regular
    expressions is found. ``prompt_threshold``: those of which ``classifier``, a logistic regression on the prompt's
    embedding, gives a higher probability that only the large model is right; no classifier where it is None.
    """

    max_prompt_characters: int = 0
    large_tasks: tuple[str, ...] = ()
    large_patterns: tuple[str, ...] = ()
    prompt_threshold: float | None = None
    classifier: Logistic | None = None

    def __post_init__(self) -> None:
        _check_bound("router.max_prompt_characters", self.max_prompt_characters, 0)
        for pattern in self.large_patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise SettingsError(
                    f"router.large_patterns has {pattern!r}, which is no regular expression ({error}); mend it"
                ) from error
        if self.prompt_threshold is not None and not 0 <= self.prompt_threshold <= 1:
            raise SettingsError(f"router.prompt_threshold is {self.prompt_threshold}; it must be between 0 and 1")
        if self.prompt_threshold is not None and self.classifier is None:
            raise SettingsError(
                f"router.prompt_threshold is {self.prompt_threshold}, but there is no trained classifier; train one "
                "with fathom-export calibrate"
            )


@dataclass(frozen=True, slots=True)
class CascadeSettings:
    """Everything in ``cascade.json``.

    ``small`` and ``large`` are the names of the models behind; ``large_url`` is the gRPC address (host:port) of the
    server that has the large one, empty where it is this one. An answer of the small model is handed over where
    ``signal`` is below ``threshold`` (entropies: above), in the signal's own unit: nats, a share, a probability, or
    whatever a hook gives. A token's signal may be judged after ``decide_after_tokens`` tokens, 0 for the whole answer.

    ``samples`` answers at ``sample_temperature`` are compared for ``agreement``; ``verifier`` scores a question with
    its answer (a model of the task rerank); ``encoder`` embeds prompts (task embed) for ``learned``, a logistic
    regression whose probability that only the large model is right is turned round, and for the router. At most the
    share ``budget`` of requests goes to the large model, over any run of requests, and ``budget_burst`` more;
    ``max_requests`` are under way at once, the next is refused. ``timeout_s`` is the deadline of requests without one.
    """

    small: str
    large: str
    threshold: float
    signal: SignalName = "min_logprob"
    large_url: str = ""
    decide_after_tokens: int = 0
    samples: int = 5
    sample_temperature: float = 0.7
    verifier: str = ""
    encoder: str = ""
    learned: Logistic | None = None
    router: RouterSettings = field(default_factory=RouterSettings)
    budget: float = 1.0
    budget_burst: int = 8
    max_requests: int = 256
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if self.signal not in get_args(SignalName):
            raise SettingsError(f"signal is {self.signal!r}; valid: {', '.join(get_args(SignalName))}")
        if not self.small or not self.large or (self.small == self.large and not self.large_url):
            raise SettingsError(
                f"small is {self.small!r} and large {self.large!r}; name two models, or the server of the large one "
                "in large_url"
            )
        if not math.isfinite(self.threshold):
            raise SettingsError(f"threshold is {self.threshold}; it must be a number")
        _check_bound("decide_after_tokens", self.decide_after_tokens, 0)
        _check_bound("samples", self.samples, 2)
        _check_bound("budget_burst", self.budget_burst, 1)
        _check_bound("max_requests", self.max_requests, 1)
        if not 0 <= self.budget <= 1:
            raise SettingsError(f"budget is {self.budget}; it must be a share from 0 to 1")
        if not self.sample_temperature > 0:
            raise SettingsError(f"sample_temperature is {self.sample_temperature}; it must be above 0")
        if not self.timeout_s > 0:
            raise SettingsError(f"timeout_s is {self.timeout_s}; it must be above 0 seconds")
        if self.decide_after_tokens and self.signal not in TOKEN_SIGNALS:
            raise SettingsError(
                f"decide_after_tokens is {self.decide_after_tokens}, but signal {self.signal!r} needs the whole "
                "answer; leave it out"
            )
        if self.signal == "verifier" and not self.verifier:
            raise SettingsError("signal is 'verifier', but verifier names no model; name one of the task rerank")
        if self.signal == "learned" and self.learned is None:
            raise SettingsError("signal is 'learned', but nothing was learned; run fathom-export calibrate")
        if self.needs_encoder and not self.encoder:
            raise SettingsError("the prompt's embedding is needed, but encoder names no model; name one of task embed")

    @property
    def needs_encoder(self) -> bool:
        """Whether prompts must be embedded."""
        learned = self.learned if self.signal == "learned" else None
        return (learned is not None and learned.uses_embedding) or self.router.classifier is not None

    @property
    def needs_entropy(self) -> bool:
        """Whether each token's likeliest others must be known."""
        return self.signal in ("mean_entropy", "max_entropy", "learned", "hook")

    def is_trusted(self, value: float) -> bool:
        """Whether an answer with this value of the signal is given; one that is no number is not."""
        if math.isnan(value):
            return False
        return value <= self.threshold if self.signal in HIGHER_IS_DOUBTFUL else value >= self.threshold

    def save(self, folder: Path) -> None:
        """Write ``cascade.json`` into a version's folder."""
        (folder / CASCADE_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``cascade.json`` from a version's folder; raises SettingsError naming the file and what is wrong."""
        path = folder / CASCADE_FILE
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            router = dict(raw.pop("router"))
            for name in ("large_tasks", "large_patterns"):
                router[name] = tuple(router[name])
            router["classifier"] = _logistic(router["classifier"])
            return cls(**{**raw, "learned": _logistic(raw["learned"]), "router": RouterSettings(**router)})
        except FileNotFoundError as error:
            raise SettingsError(f"{path} is missing; export the model again with fathom-export") from error
        except SettingsError as error:
            raise SettingsError(f"{path}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SettingsError(
                f"{path} cannot be read ({error!r}); export the model again with fathom-export"
            ) from error


def _logistic(raw: dict[str, Any] | None) -> Logistic | None:
    if raw is None:
        return None
    return Logistic(**{each.name: raw[each.name] for each in fields(Logistic)})


def _check_bound(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise SettingsError(f"{name} is {value}; it must be at least {minimum}")
