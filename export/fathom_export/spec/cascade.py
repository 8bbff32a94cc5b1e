"""Small beside large: which models answer, when the small one's answer is handed over, and what that may cost."""

from dataclasses import dataclass, fields
from typing import Annotated, Final

from fathom_export.errors import SpecError
from fathom_export.spec.key import Key, check_ranges
from fathom_server.cascade.settings import CascadeSettings, RouterSettings, SignalName
from fathom_server.errors import SettingsError

ABSENT: Final = ""


@dataclass(frozen=True, slots=True)
class CascadeRouter:
    """Which requests go to the large model straight away."""

    max_prompt_characters: Annotated[
        int, Key("requests with a longer prompt (in tokens where it comes as ids), 0 for no bound", minimum=0)
    ] = 0
    large_tasks: Annotated[tuple[str, ...], Key("requests whose parameter `task` is one of these")] = ()
    large_patterns: Annotated[
        tuple[str, ...], Key("requests in whose last user message one of these regular expressions is found")
    ] = ()
    prompt_classifier: Annotated[
        bool, Key("requests that the calibration's classifier of embedded prompts sends there; needs `encoder`")
    ] = False

    def __post_init__(self) -> None:
        check_ranges(self, "router")
        try:
            RouterSettings(self.max_prompt_characters, self.large_tasks, self.large_patterns)
        except SettingsError as error:
            raise SpecError(str(error)) from error


@dataclass(frozen=True, slots=True)
class CascadeLimits:
    """What a cascade takes on at once."""

    max_requests: Annotated[int, Key("requests under way before others are refused", minimum=1)] = 256
    timeout_s: Annotated[float, Key("deadline in seconds of a request that brings none", above=0)] = 600.0

    def __post_init__(self) -> None:
        check_ranges(self, "limits")


@dataclass(frozen=True, slots=True)
class CascadeServing:
    """How Triton runs the models of a cascade."""

    keep_versions: Annotated[
        int, Key("versions kept in the repository, the one that is served among them", minimum=1)
    ] = 2
    tokenizer_instances: Annotated[int, Key("tokenizer processes that work at once", minimum=1)] = 1

    def __post_init__(self) -> None:
        check_ranges(self, "serving")


@dataclass(frozen=True, slots=True)
class CascadeOptions:
    """When a small answer is given and when the large model is asked."""

    small: Annotated[str, Key("the model that is asked first: name of another LLM of the bundle")]
    large: Annotated[
        str, Key("the model that answers where the small one's answer is not trusted: name of another LLM")
    ]
    large_url: Annotated[
        str, Key("gRPC address (host:port) of the server that has the large model; by default the same server")
    ] = ABSENT
    calibration: Annotated[
        str, Key("folder of what `fathom-export calibrate` finds; by default NAME.calibration beside this file")
    ] = ABSENT
    signal: Annotated[
        SignalName | None,
        Key("what tells whether an answer is trusted; by default what the calibration chose"),
    ] = None
    threshold: Annotated[
        float | None,
        Key("an answer is handed over where `signal` is below it (entropies: above); by default the calibration's"),
    ] = None
    decide_after_tokens: Annotated[
        int, Key("tokens after which a log-probability or an entropy decides, 0 for the whole answer", minimum=0)
    ] = 0
    samples: Annotated[int, Key("sampled answers that are compared (agreement)", minimum=2)] = 5
    sample_temperature: Annotated[float, Key("their temperature", above=0)] = 0.7
    verifier: Annotated[str, Key("model of the bundle that scores answers (verifier): of task rerank")] = ABSENT
    encoder: Annotated[str, Key("model of the bundle that embeds prompts (learned, router): of task embed")] = ABSENT
    hook: Annotated[
        str, Key("your own signal (hook): a Python file with a function trust(answer), relative to this file")
    ] = ABSENT
    budget: Annotated[
        float, Key("share of requests, at most 1, that the large model may be asked, over any run of them", minimum=0)
    ] = 1.0
    budget_burst: Annotated[int, Key("requests beyond that share that may go there at once", minimum=1)] = 8

    def __post_init__(self) -> None:
        check_ranges(self, "cascade")
        if self.threshold is not None and self.signal is None:
            raise SpecError(f"cascade.threshold is {self.threshold}, but of no signal; name the signal as well")
        if self.signal == "hook" and not self.hook:
            raise SpecError("cascade.signal is 'hook', but cascade.hook names no file; name one")
        if self.hook and self.signal not in (None, "hook"):
            raise SpecError(f"cascade.hook is {self.hook!r}, but cascade.signal is {self.signal!r}; leave one out")
        if self.threshold is not None and self.signal == "learned":
            raise SpecError(
                "cascade.threshold is given for signal 'learned', which the calibration learns together with its "
                "threshold; leave the threshold out"
            )
        try:
            if self.signal != "learned":
                self._settings(self.signal or "mean_logprob", self.threshold or 0.0)
        except SettingsError as error:
            raise SpecError(f"cascade.{error}") from error

    def _settings(self, signal: SignalName, threshold: float) -> CascadeSettings:
        own = {each.name for each in fields(CascadeSettings)} - {"signal", "threshold"}
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name in own}
        return CascadeSettings(signal=signal, threshold=threshold, **values)
