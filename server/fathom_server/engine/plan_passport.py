"""A TensorRT plan's passport, ``plan.json``: where the plan was built and for what, and whether it may run here."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, Self, get_args

from fathom_server.errors import SettingsError

PLAN_FILE: Final = "model.plan"
PLAN_PASSPORT_FILE: Final = "plan.json"

PlanPrecision = Literal["fp16", "fp8"]
HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]

FP8_COMPUTE_CAPABILITY: Final = (8, 9)
"""The first with FP8 matrix units: Ada."""
AMPERE_COMPUTE_CAPABILITY: Final = (8, 0)

_HASH_BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class PlanRuntime:
    """What a plan is built with or run on.

    ``tensorrt`` is TensorRT's version; ``cuda`` the CUDA version of the runtime library and ``driver_cuda`` the highest
    that the driver takes, both as major.minor; ``compute_capability`` that of the GPU called ``gpu``.
    """

    tensorrt: str
    cuda: str
    driver_cuda: str
    compute_capability: tuple[int, int]
    gpu: str

    def __post_init__(self) -> None:
        _check_texts(self, ("tensorrt", "cuda", "driver_cuda", "gpu"))
        capability = self.compute_capability
        if len(capability) != 2 or not all(type(number) is int for number in capability):
            raise SettingsError(f"compute_capability is {capability!r}; it must be two whole numbers")


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """Least, most likely and largest shape of an input."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]

    def __post_init__(self) -> None:
        if not all(type(size) is int for shape in self.shapes() for size in shape):
            raise SettingsError(f"the shapes {self.minimum}, {self.optimum}, {self.maximum} are not of whole numbers")
        if not len(self.minimum) == len(self.optimum) == len(self.maximum):
            raise SettingsError(f"the shapes {self.minimum}, {self.optimum}, {self.maximum} have different ranks")
        if not all(0 <= low <= mid <= high for low, mid, high in zip(*self.shapes(), strict=True)):
            raise SettingsError(f"the shapes {self.minimum}, {self.optimum}, {self.maximum} do not grow")

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """All three, the least first."""
        return self.minimum, self.optimum, self.maximum

    def covers(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape lies in the range."""
        return len(shape) == len(self.minimum) and all(
            low <= size <= high for low, size, high in zip(self.minimum, shape, self.maximum, strict=True)
        )


@dataclass(frozen=True, slots=True)
class PlanProfile:
    """One optimisation profile: the range of every input's shape, by the input's name."""

    name: str
    shapes: Mapping[str, ShapeRange]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How a plan was asked to be built; each is a flag of ``fathom-export plan``.

    ``workspace_bytes`` bounds a layer's scratch memory (None: all of the GPU's), ``optimization_level`` is TensorRT's
    0 to 5 (None: its default).
    """

    precision: PlanPrecision = "fp16"
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    refit: bool = False
    strip: bool = False
    weight_streaming: bool = False
    sparsity: bool = False

    def __post_init__(self) -> None:
        if self.precision not in get_args(PlanPrecision):
            raise SettingsError(f"precision {self.precision!r} is unknown; valid: {', '.join(get_args(PlanPrecision))}")
        if self.hardware_compatibility not in get_args(HardwareCompatibility):
            raise SettingsError(
                f"hardware compatibility {self.hardware_compatibility!r} is unknown; "
                f"valid: {', '.join(get_args(HardwareCompatibility))}"
            )
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise SettingsError(f"--workspace is {self.workspace_bytes}; it must be at least 1 byte")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise SettingsError(f"--optimization-level is {self.optimization_level}; valid: 0 to 5")

    def flags(self) -> str:
        """As they are written on the command line; what has its default is left out, except the precision."""
        words = [f"--precision {self.precision}"]
        if self.workspace_bytes is not None:
            words.append(f"--workspace {self.workspace_bytes}")
        if self.optimization_level is not None:
            words.append(f"--optimization-level {self.optimization_level}")
        if self.hardware_compatibility != "none":
            words.append(f"--hardware-compatibility {self.hardware_compatibility}")
        switches = ("version_compatible", "refit", "strip", "weight_streaming", "sparsity")
        words.extend(f"--{name.replace('_', '-')}" for name in switches if getattr(self, name))
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class PlanPassport:
    """Everything in ``plan.json``.

    ``onnx_sha256`` is of ``model.onnx`` in the repository, ``weights_sha256`` of its external data or None, both in
    hexadecimal; ``plan_bytes`` the size of ``model.plan``; ``created`` UTC, ISO 8601.
    """

    built_with: PlanRuntime
    options: PlanOptions
    onnx_sha256: str
    weights_sha256: str | None
    profiles: tuple[PlanProfile, ...]
    plan_bytes: int
    created: str

    def __post_init__(self) -> None:
        _check_texts(self, ("onnx_sha256", "created"))

    def save(self, path: Path) -> None:
        """Write the passport."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a passport; raises SettingsError naming the file and the remedy."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            runtime = raw["built_with"]
            profiles = tuple(
                PlanProfile(
                    profile["name"],
                    {
                        name: ShapeRange(*(tuple(shape[end]) for end in ("minimum", "optimum", "maximum")))
                        for name, shape in profile["shapes"].items()
                    },
                )
                for profile in raw["profiles"]
            )
            return cls(
                built_with=PlanRuntime(**{**runtime, "compute_capability": tuple(runtime["compute_capability"])}),
                options=PlanOptions(**raw["options"]),
                onnx_sha256=raw["onnx_sha256"],
                weights_sha256=raw["weights_sha256"],
                profiles=profiles,
                plan_bytes=raw["plan_bytes"],
                created=raw["created"],
            )
        except FileNotFoundError as error:
            raise SettingsError(f"{path} is missing; build the plan again: {plan_command(path.parent)}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SettingsError) as error:
            raise SettingsError(
                f"{path} cannot be read ({error!r}); build the plan again: {plan_command(path.parent)}"
            ) from error


@dataclass(frozen=True, slots=True)
class PlanUse:
    """What is known where a plan is to be used; None is not known, and not checked.

    ``needed_shapes`` are shapes of inputs that some profile must take, each a mapping of input to shape.
    """

    runtime: PlanRuntime
    onnx_sha256: str | None = None
    weights_sha256: str | None = None
    plan_bytes: int | None = None
    needed_shapes: tuple[Mapping[str, tuple[int, ...]], ...] = ()


def plan_fault(passport: PlanPassport, use: PlanUse, command: str) -> str | None:
    """Why a plan may not run here: one sentence that ends with the command that mends it; None if it may.

    ``command`` builds this plan again. A plan runs on the TensorRT version and the GPU model that it was built with;
    ``version_compatible`` lets it run on later versions of the same major, ``hardware_compatibility`` on other GPUs
    (NVIDIA, TensorRT developer guide, "Engine compatibility").
    """
    built, here, options = passport.built_with, use.runtime, passport.options
    reason = (
        _graph_fault(passport, use)
        or _version_fault(built.tensorrt, here.tensorrt, options.version_compatible)
        or _gpu_fault(built, here, options.hardware_compatibility)
        or fp8_fault(options.precision, here)
    )
    if reason is None and _version(here.driver_cuda)[:1] < _version(built.cuda)[:1]:
        reason = f"was built with CUDA {built.cuda}, but the driver here takes at most CUDA {here.driver_cuda}"
    if reason is None:
        for shapes in use.needed_shapes:
            if not any(_takes(profile, shapes) for profile in passport.profiles):
                wanted = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
                reason = f"has no profile for {wanted}, which the limits of today ask for"
                break
    return None if reason is None else f"the plan {reason}; build it again here: {command}"


def fp8_fault(precision: str, runtime: PlanRuntime) -> str | None:
    """Why a GPU cannot run fp8: the rest of a sentence about the plan; None if it can or need not."""
    if precision != "fp8" or runtime.compute_capability >= FP8_COMPUTE_CAPABILITY:
        return None
    return (
        f"is in fp8, which needs compute capability {_dotted(FP8_COMPUTE_CAPABILITY)} or later, but the "
        f"{runtime.gpu} here has {_dotted(runtime.compute_capability)}"
    )


def plan_command(folder: Path, options: PlanOptions | None = None) -> str:
    """The command that builds the plan of a version's folder (REPOSITORY/MODEL/VERSION)."""
    model = folder.absolute().parent
    flags = "" if options is None else f" {options.flags()}"
    return f"fathom-export plan {model.name} --repository {model.parent}{flags}"


def hash_file(path: Path) -> str:
    """SHA-256 of one file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _graph_fault(passport: PlanPassport, use: PlanUse) -> str | None:
    if use.plan_bytes not in (None, passport.plan_bytes):
        return f"has {use.plan_bytes} bytes, but its passport says {passport.plan_bytes}"
    same_graph = use.onnx_sha256 in (None, passport.onnx_sha256)
    same_weights = use.weights_sha256 in (None, passport.weights_sha256)
    return None if same_graph and same_weights else "was built from another ONNX file than the one beside it"


def _version_fault(built: str, here: str, version_compatible: bool) -> str | None:
    if built == here:
        return None
    old, new = _version(built), _version(here)
    if version_compatible and old[:1] == new[:1] and old <= new:
        return None
    return f"was built with TensorRT {built}, but this is TensorRT {here}"


def _gpu_fault(built: PlanRuntime, here: PlanRuntime, compatibility: HardwareCompatibility) -> str | None:
    if (built.compute_capability, built.gpu) == (here.compute_capability, here.gpu):
        return None
    same_capability = built.compute_capability == here.compute_capability
    if compatibility == "ampere_plus" and here.compute_capability >= AMPERE_COMPUTE_CAPABILITY:
        return None
    if compatibility == "same_compute_capability" and same_capability:
        return None
    return (
        f"was built for the {built.gpu} (compute capability {_dotted(built.compute_capability)}), but this is the "
        f"{here.gpu} ({_dotted(here.compute_capability)})"
    )


def _takes(profile: PlanProfile, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return all(name in profile.shapes and profile.shapes[name].covers(shape) for name, shape in shapes.items())


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d{1,9}", text))


def _check_texts(value: object, names: tuple[str, ...]) -> None:
    for name in names:
        if not isinstance(getattr(value, name), str):
            raise SettingsError(f"{name} is {getattr(value, name)!r}; it must be a text")


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
