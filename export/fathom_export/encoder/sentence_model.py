"""What a sentence-transformers folder says about itself: transformer, pooling, the layers behind it, prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from fathom_export.encoder.architecture import MODULES_FILE, EncoderArchitecture, read_modules
from fathom_export.errors import CheckpointError, SourceError, UnsupportedArchitectureError
from fathom_export.sources.folder import CONFIG_FILE, read_json

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
Activation = Literal["Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"]

WEIGHTS_FILE: Final = "model.safetensors"
QUERY: Final = "query"
DOCUMENT: Final = "document"

_POOLING_FLAGS: Final[dict[str, Pooling]] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Flags of folders older than sentence-transformers 6, in the order in which several are joined."""
_LAYERS: Final = ("Dense", "LayerNorm", "Dropout", "Normalize")
_PROMPTS_FILE: Final = "config_sentence_transformers.json"
_PLACE: Final = "sentence_embedding"


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer with weights in ``folder``, its activation, and optionally its input added to its output."""

    folder: Path
    in_features: int
    out_features: int
    bias: bool
    activation: Activation
    residual: bool


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer normalisation with weights in ``folder``."""

    folder: Path
    dimension: int


@dataclass(frozen=True, slots=True)
class Normalise:
    """Division by the Euclidean length."""


Layer = Dense | LayerNorm | Normalise


@dataclass(frozen=True, slots=True)
class SentenceModel:
    """A sentence encoder's form.

    ``pooling`` names the poolings whose results are joined; ``layers`` follow them in order; ``dimension`` is the
    length of an embedding. ``prompts`` are put before a text by name, ``default_prompt`` where none is named.
    """

    architecture: EncoderArchitecture
    pooling: tuple[Pooling, ...]
    layers: tuple[Layer, ...]
    dimension: int
    prompts: Mapping[str, str]
    default_prompt: str

    @classmethod
    def load(cls, source: Path) -> Self:
        """Read a folder. Raises SourceError, CheckpointError or UnsupportedArchitectureError naming file and remedy."""
        modules = read_modules(source)
        if modules is None:  # a bare transformer, which sentence-transformers takes with mean pooling
            architecture = EncoderArchitecture.load(source, source)
            return cls(architecture, ("mean",), (), architecture.hidden_size, *_read_prompts(source))
        kinds = [kind for kind, _ in modules]
        if kinds[:2] != ["Transformer", "Pooling"] or any(kind not in _LAYERS for kind in kinds[2:]):
            raise UnsupportedArchitectureError(
                f"{source / MODULES_FILE} lists {', '.join(kinds) or 'no modules'}; supported: Transformer, then "
                f"Pooling, then any of {', '.join(_LAYERS)}"
            )
        architecture = EncoderArchitecture.load(source, modules[0][1])
        prompts, default = _read_prompts(source)
        pooling = _read_pooling(modules[1][1] / CONFIG_FILE, has_prompts=any(prompts.values()))
        layers = tuple(_read_layer(kind, folder) for kind, folder in modules[2:] if kind != "Dropout")
        dimension = architecture.hidden_size * len(pooling)
        for layer in layers:
            dimension = _next_dimension(layer, dimension)
        return cls(architecture, pooling, layers, dimension, prompts, default)

    @property
    def normalise(self) -> bool:
        """Whether embeddings have length 1."""
        return self.layers[-1:] == (Normalise(),)


def _read_pooling(path: Path, *, has_prompts: bool) -> tuple[Pooling, ...]:
    config = read_json(path)
    if "pooling_mode" in config:
        modes: list[Any] = (
            config["pooling_mode"] if isinstance(config["pooling_mode"], list) else [config["pooling_mode"]]
        )
    else:
        strange = [key for key in config if key.startswith("pooling_mode_") and key not in _POOLING_FLAGS]
        modes = [mode for key, mode in _POOLING_FLAGS.items() if config.get(key)]
        modes += [key for key in strange if config[key]]
    valid = get_args(Pooling)
    if not modes or any(mode not in valid for mode in modes):
        raise UnsupportedArchitectureError(
            f"{path} asks for pooling {', '.join(map(str, modes)) or 'of no kind'}; supported: {', '.join(valid)}"
        )
    if not config.get("include_prompt", True) and has_prompts:
        raise UnsupportedArchitectureError(
            f"{path} leaves prompts out of the pooling (include_prompt is false), which cannot be exported; set "
            f"prompts to {{}} in {_PROMPTS_FILE} to do without them"
        )
    return tuple(modes)


def _read_layer(kind: str, folder: Path) -> Layer:
    path = folder / CONFIG_FILE
    config = read_json(path) if kind != "Normalize" or path.is_file() else {}
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, _PLACE):
            raise UnsupportedArchitectureError(
                f"{path}: {key} is {config[key]!r}; layers are supported behind the pooling only ({_PLACE!r})"
            )
    if kind == "Normalize":
        return Normalise()
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(
            f"{folder} has no {WEIGHTS_FILE}; only safetensors are read: load the model with sentence-transformers "
            "and save it again"
        )
    try:
        if kind == "LayerNorm":
            return LayerNorm(folder, int(config["dimension"]))
        return Dense(
            folder,
            in_features=int(config["in_features"]),
            out_features=int(config["out_features"]),
            bias=bool(config.get("bias", True)),
            activation=_read_activation(path, config),
            residual=bool(config.get("use_residual", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path} is not a config of {kind} ({error!r}); download the checkpoint again") from error


def _read_activation(path: Path, config: Mapping[str, Any]) -> Activation:
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    kind = name.rsplit(".", 1)[-1]
    valid: tuple[Activation, ...] = get_args(Activation)
    for activation in valid:
        if name.startswith("torch.nn.") and kind == activation:
            return activation
    raise UnsupportedArchitectureError(
        f"{path}: activation_function {name!r} cannot be exported; supported: torch.nn's {', '.join(valid)}"
    )


def _next_dimension(layer: Layer, dimension: int) -> int:
    """What a layer makes of an embedding's length; raises CheckpointError where it does not take it."""
    if isinstance(layer, Normalise):
        return dimension
    wanted, given = (layer.in_features, layer.out_features) if isinstance(layer, Dense) else (layer.dimension,) * 2
    if wanted != dimension:
        raise CheckpointError(
            f"{layer.folder / CONFIG_FILE}: the layer takes {wanted} numbers, but {dimension} come to it; download the "
            "checkpoint again"
        )
    return given


def _read_prompts(source: Path) -> tuple[dict[str, str], str]:
    """Prompts by name and the default one, '' for none.

    ``query`` and ``document`` always have one, if only the empty one, as sentence-transformers' ``encode_query`` and
    ``encode_document`` have it.
    """
    path = source / _PROMPTS_FILE
    config = read_json(path) if path.is_file() else {}
    raw = config.get("prompts") or {}
    if not isinstance(raw, dict) or not all(isinstance(text, str | None) for text in raw.values()):
        raise SourceError(f"{path}: prompts is {raw!r}; it must be an object of texts; download the checkpoint again")
    prompts = {name: text or "" for name, text in raw.items()}
    default = config.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise SourceError(
            f"{path}: default_prompt_name is {default!r}, but prompts has {', '.join(prompts) or 'none'}; mend the file"
        )
    return {QUERY: "", DOCUMENT: "", **prompts}, prompts[default] if default is not None else ""
