"""What kind of decoder a checkpoint is: one description for every architecture that the builder can write."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from fathom_export.errors import CheckpointError, UnsupportedArchitectureError

CONFIG_FILE: Final = "config.json"
GENERATION_CONFIG_FILE: Final = "generation_config.json"

DEFAULT_ROPE_THETA: Final = 10_000.0
DEFAULT_NORM_EPSILON: Final = 1e-6
DEFAULT_MAX_WINDOW_LAYERS: Final = 28
"""What transformers assumes for the families below when config.json is silent."""


@dataclass(frozen=True, slots=True)
class _Family:
    """What a ``model_type`` fixes that its config.json does not say."""

    qkv_bias: bool = False
    configurable_attention_bias: bool = False
    configurable_mlp_bias: bool = False
    qk_norm: bool = False
    head_dim: int | None = None
    window_needs_flag: bool = True


_FAMILIES: Final[Mapping[str, _Family]] = {
    "llama": _Family(configurable_attention_bias=True, configurable_mlp_bias=True),
    "mistral": _Family(window_needs_flag=False),
    "qwen2": _Family(qkv_bias=True),
    "qwen3": _Family(configurable_attention_bias=True, qk_norm=True, head_dim=128),
}

_ACTIVATIONS: Final[Mapping[str, str]] = {"silu": "silu", "swish": "silu"}

SUPPORTED_MODEL_TYPES: Final = tuple(sorted(_FAMILIES))
SUPPORTED_ACTIVATIONS: Final = tuple(sorted(_ACTIVATIONS))


@dataclass(frozen=True, slots=True)
class DecoderArchitecture:
    """A pre-norm decoder with rotary grouped-query attention and a gated MLP, parsed from config.json.

    ``sliding_window`` is the number of tokens that attention looks back over, or None for all of them;
    ``max_positions`` the longest context that the model was made for, in tokens.
    """

    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    max_positions: int
    norm_epsilon: float
    rope_theta: float
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    activation: str
    sliding_window: int | None

    @classmethod
    def load(cls, source: Path) -> Self:
        """Read ``config.json`` of a checkpoint folder.

        Raises CheckpointError if it is missing or contradicts itself, UnsupportedArchitectureError if the model does
        not fit this description.
        """
        return cls.from_config(read_json_object(source / CONFIG_FILE), source / CONFIG_FILE)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], path: Path) -> Self:
        """Read a parsed config.json; ``path`` is named in errors, which are those of ``load``."""
        values = _Values(config, path)
        model_type = config.get("model_type")
        if model_type is None:
            raise CheckpointError(f"{path} names no model_type; the source must be a transformers checkpoint")
        family = _FAMILIES.get(model_type) if isinstance(model_type, str) else None
        if family is None:
            raise UnsupportedArchitectureError(
                f"{path}: model_type {model_type!r} is not supported; supported: {', '.join(SUPPORTED_MODEL_TYPES)}"
            )
        _refuse_unsupported_features(config, path, model_type)

        hidden = values.size("hidden_size")
        heads = values.size("num_attention_heads")
        kv_heads = values.size("num_key_value_heads", default=heads)
        if heads % kv_heads:
            raise CheckpointError(
                f"{path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        if config.get("head_dim") is None and family.head_dim is None and hidden % heads:
            raise CheckpointError(
                f"{path}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and head_dim is "
                "not set"
            )
        # A family's own head size comes before the quotient, as transformers has it.
        head_dim = values.size("head_dim", default=family.head_dim or hidden // heads)
        if head_dim % 2:
            raise CheckpointError(f"{path}: head_dim {head_dim} is odd, but rotary embedding turns pairs of values")
        layers = values.size("num_hidden_layers")
        attention_bias = family.configurable_attention_bias and values.flag("attention_bias")
        return cls(
            model_type=model_type,
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate=values.size("intermediate_size"),
            vocabulary=values.size("vocab_size"),
            max_positions=values.size("max_position_embeddings"),
            norm_epsilon=values.positive("rms_norm_eps", DEFAULT_NORM_EPSILON),
            rope_theta=_rope_theta(config, values, path, model_type),
            tied_embeddings=values.flag("tie_word_embeddings"),
            qkv_bias=family.qkv_bias or attention_bias,
            output_bias=attention_bias,
            mlp_bias=family.configurable_mlp_bias and values.flag("mlp_bias"),
            qk_norm=family.qk_norm,
            activation=_activation(config, path, model_type),
            sliding_window=_sliding_window(config, values, family, layers),
        )


def eos_token_ids(source: Path) -> tuple[int, ...]:
    """The ids that end an answer: those of generation_config.json, or else of config.json, in their order.

    Empty if neither names any. Raises CheckpointError if a file is not JSON or an id is not a whole number.
    """
    for name in (GENERATION_CONFIG_FILE, CONFIG_FILE):
        path = source / name
        if name == GENERATION_CONFIG_FILE and not path.exists():
            continue
        ids = read_json_object(path).get("eos_token_id")
        if ids is None:
            continue
        ids = ids if isinstance(ids, list) else [ids]
        if not all(type(token) is int and token >= 0 for token in ids):
            raise CheckpointError(f"{path}: eos_token_id is {ids!r}; it must be a token id or a list of them")
        return tuple(dict.fromkeys(ids))
    return ()


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint; raises CheckpointError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{path} does not exist; the source must be a folder with a transformers checkpoint "
            f"({CONFIG_FILE} and safetensors)"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download the checkpoint again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, not an object")
    return content


@dataclass(frozen=True, slots=True)
class _Values:
    """Typed access to config.json; each method raises CheckpointError naming the key and its value."""

    config: Mapping[str, Any]
    path: Path

    def size(self, key: str, default: int | None = None) -> int:
        value = self.config.get(key)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(f"{self.path} lacks {key}")
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{self.path}: {key} is {value!r}; it must be a whole number of at least 1")
        return value

    def positive(self, key: str, default: float) -> float:
        value = self.config.get(key)
        return self.check_positive(key, default if value is None else value)

    def check_positive(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise CheckpointError(f"{self.path}: {key} is {value!r}; it must be a number above 0")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.config.get(key, False)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.path}: {key} is {value!r}; it must be true or false")
        return value


def _refuse_unsupported_features(config: Mapping[str, Any], path: Path, model_type: str) -> None:
    """Raise UnsupportedArchitectureError for what changes the arithmetic in a way that the builder does not write."""
    if config.get("quantization_config") is not None:
        raise UnsupportedArchitectureError(
            f"{path}: this {model_type} is already quantised (quantization_config); supported: checkpoints in float32, "
            "float16 or bfloat16, which export quantises itself"
        )
    heads = config.get("architectures") or []
    if heads and not any(str(head).endswith("ForCausalLM") for head in heads):
        raise UnsupportedArchitectureError(
            f"{path}: architectures {', '.join(map(str, heads))} is not a language model; supported: ...ForCausalLM "
            f"of {', '.join(SUPPORTED_MODEL_TYPES)}"
        )
    layer_types = config.get("layer_types") or []
    unknown = sorted({str(kind) for kind in layer_types} - {"full_attention", "sliding_attention"})
    if unknown:
        raise UnsupportedArchitectureError(
            f"{path}: layer_types of this {model_type} hold {', '.join(unknown)}; supported: full_attention"
        )


def _rope_theta(config: Mapping[str, Any], values: _Values, path: Path, model_type: str) -> float:
    """The rotary base, from ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (before)."""
    rope: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        section = config.get(key)
        if section is None:
            continue
        if not isinstance(section, dict):
            raise CheckpointError(f"{path}: {key} is {section!r}; it must be an object")
        rope |= section
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UnsupportedArchitectureError(
            f"{path}: rope scaling {kind!r} of this {model_type} is not supported; supported: default (no scaling)"
        )
    rotated = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if rotated not in (None, 1, 1.0):
        raise UnsupportedArchitectureError(
            f"{path}: partial_rotary_factor {rotated!r} of this {model_type} is not supported; supported: 1.0"
        )
    if rope.get("rope_theta") is not None:
        return values.check_positive("rope_theta", rope["rope_theta"])
    return values.positive("rope_theta", DEFAULT_ROPE_THETA)


def _activation(config: Mapping[str, Any], path: Path, model_type: str) -> str:
    name = config.get("hidden_act", "silu")
    activation = _ACTIVATIONS.get(name) if isinstance(name, str) else None
    if activation is None:
        raise UnsupportedArchitectureError(
            f"{path}: hidden_act {name!r} of this {model_type} is not supported; "
            f"supported: {', '.join(SUPPORTED_ACTIVATIONS)}"
        )
    return activation


def _sliding_window(config: Mapping[str, Any], values: _Values, family: _Family, layers: int) -> int | None:
    """The attention window if any layer has one. Qwen's needs a flag and a layer from which it holds."""
    if config.get("sliding_window") is None:
        return None
    if family.window_needs_flag:
        if not values.flag("use_sliding_window"):
            return None
        layer_types = config.get("layer_types")
        if layer_types is None:
            full = (
                values.size("max_window_layers", DEFAULT_MAX_WINDOW_LAYERS)
                if config.get("max_window_layers") != 0
                else 0
            )
            layer_types = ["sliding_attention"] * (layers - full)
        if "sliding_attention" not in layer_types:
            return None
    return values.size("sliding_window")
