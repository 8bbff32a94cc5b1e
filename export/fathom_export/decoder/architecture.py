"""What kind of decoder a checkpoint is: one description for every architecture that the builder can write."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from fathom_export.decoder.config_values import ConfigValues, read_json_object
from fathom_export.decoder.families import (
    FAMILIES,
    FULL,
    SLIDING,
    SUPPORTED_MODEL_TYPES,
    Family,
    NormPlacement,
    QkNorm,
    rope_layers,
)
from fathom_export.decoder.rope import Rope, RopeReader
from fathom_export.errors import CheckpointError, UnsupportedArchitectureError

CONFIG_FILE: Final = "config.json"
GENERATION_CONFIG_FILE: Final = "generation_config.json"

MAX_LAYERS: Final = 10_000
"""More are refused unread: each layer is described before its weights are looked for."""

Activation = Literal["silu", "gelu", "gelu_tanh"]

_ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}

SUPPORTED_ACTIVATIONS: Final = tuple(sorted(_ACTIVATIONS))


@dataclass(frozen=True, slots=True)
class LayerForm:
    """What one layer's attention has of its own.

    ``window`` is how many tokens a query sees, itself among them, or None for all before it; ``rope`` its rotary
    embedding, or None for a layer that has none.
    """

    window: int | None
    rope: Rope | None


@dataclass(frozen=True, slots=True)
class DecoderArchitecture:
    """A decoder with RMS norms, rotary grouped-query attention and a gated MLP, parsed from config.json.

    ``is_part`` says that the checkpoint is of a model of more than text, and this one of its parts.
    ``max_positions`` is the longest context that the model was made for, in tokens. Norms multiply by their weights +
    ``norm_offset``. Embeddings, what attention and MLP add to the residual, attention scores and logits are times
    their ``…_scale``; a soft cap c turns x into c · tanh(x / c), of attention scores after their scale, of logits last.
    """

    model_type: str
    is_part: bool
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    max_positions: int
    norm_epsilon: float
    norm_placement: NormPlacement
    norm_offset: float
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    fused_projections: bool
    qk_norm: QkNorm | None
    activation: Activation
    embedding_scale: float
    residual_scale: float
    attention_scale: float
    logit_scale: float
    attention_softcap: float | None
    logit_softcap: float | None
    layer_forms: tuple[LayerForm, ...]

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
        model_type = config.get("model_type")
        if model_type is None:
            raise CheckpointError(f"{path} names no model_type; the source must be a transformers checkpoint")
        family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
        if family is None:
            raise UnsupportedArchitectureError(
                f"{path}: model_type {model_type!r} is not supported; supported: {', '.join(SUPPORTED_MODEL_TYPES)}"
            )
        values = _decoder_values(config, path, family)
        _refuse_unsupported_features(values, config, model_type, family)

        hidden = values.size("hidden_size")
        heads = values.size("num_attention_heads")
        kv_heads = values.size("num_key_value_heads", default=heads)
        if heads % kv_heads:
            raise CheckpointError(
                f"{path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        head_dim = _head_dim(values, hidden, heads)
        layers = values.size("num_hidden_layers", most=MAX_LAYERS)
        max_positions = values.size("max_position_embeddings")
        scales = _scales(values, family, hidden, head_dim)
        return cls(
            model_type=str(model_type),
            is_part=family.inside is not None,
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate=values.size("intermediate_size"),
            vocabulary=values.size("vocab_size"),
            max_positions=max_positions,
            norm_epsilon=values.positive("rms_norm_eps"),
            norm_placement=family.norm_placement,
            norm_offset=family.norm_offset,
            tied_embeddings=values.flag("tie_word_embeddings"),
            qkv_bias=family.qkv_bias or _flag(values, family.qkv_bias_key),
            output_bias=_flag(values, family.output_bias_key),
            mlp_bias=_flag(values, family.mlp_bias_key),
            fused_projections=family.fused_projections,
            qk_norm=family.qk_norm,
            activation=_activation(values, model_type, family),
            attention_softcap=values.optional_positive("attn_logit_softcapping") if family.attention_softcap else None,
            logit_softcap=values.optional_positive("final_logit_softcapping") if family.logit_softcap else None,
            layer_forms=_layer_forms(values, model_type, family, layers, head_dim, max_positions),
            **scales,
        )

    @property
    def context_limit(self) -> int:
        """The longest context that this description holds for, in tokens."""
        limits = [form.rope.positions_limit for form in self.layer_forms if form.rope is not None]
        return min([limit for limit in limits if limit is not None], default=self.max_positions)


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


def _decoder_values(config: Mapping[str, Any], path: Path, family: Family) -> ConfigValues:
    """The decoder's own configuration, over what transformers takes for granted where config.json is silent."""
    values = ConfigValues(config, path)
    if family.inside is not None:
        section = values.section(family.inside)
        if section is None:
            raise CheckpointError(f"{path} lacks {family.inside}")
        values = section
    return ConfigValues({**family.defaults, **values.config}, path)


def _refuse_unsupported_features(
    values: ConfigValues, whole: Mapping[str, Any], model_type: str, family: Family
) -> None:
    """Raise UnsupportedArchitectureError for what changes the arithmetic in a way that the builder does not write."""
    path = values.path
    if any(config.get("quantization_config") is not None for config in (whole, values.config)):
        raise UnsupportedArchitectureError(
            f"{path}: this {model_type} is already quantised (quantization_config); supported: checkpoints in float32, "
            "float16 or bfloat16, which export quantises itself"
        )
    heads = ConfigValues(whole, path).texts("architectures") or []
    ending = "ForCausalLM" if family.inside is None else ("ForCausalLM", "ForConditionalGeneration")
    if heads and not any(head.endswith(ending) for head in heads):
        raise UnsupportedArchitectureError(
            f"{path}: architectures {', '.join(heads)} is not a language model; supported: ...ForCausalLM "
            f"of {', '.join(SUPPORTED_MODEL_TYPES)}"
        )
    if values.flag("use_bidirectional_attention"):
        raise UnsupportedArchitectureError(
            f"{path}: this {model_type} attends in both directions (use_bidirectional_attention), so it is no "
            "generator; supported: causal attention"
        )
    unknown = sorted({*(values.texts("layer_types") or [])} - {FULL, SLIDING})
    if unknown:
        raise UnsupportedArchitectureError(
            f"{path}: layer_types of this {model_type} hold {', '.join(unknown)}; supported: {FULL}, {SLIDING}"
        )


def _head_dim(values: ConfigValues, hidden: int, heads: int) -> int:
    if values.config.get("head_dim") is None and hidden % heads:
        raise CheckpointError(
            f"{values.path}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and head_dim is "
            "not set"
        )
    head_dim = values.size("head_dim", default=hidden // heads)
    if head_dim % 2:
        raise CheckpointError(f"{values.path}: head_dim {head_dim} is odd, but rotary embedding turns pairs of values")
    return head_dim


def _flag(values: ConfigValues, key: str | None) -> bool:
    return key is not None and values.flag(key)


def _scales(values: ConfigValues, family: Family, hidden: int, head_dim: int) -> dict[str, float]:
    scalar = values.positive("query_pre_attn_scalar") if family.query_scalar else head_dim
    scales = {
        "embedding_scale": hidden**0.5 if family.scaled_embeddings else 1.0,
        "residual_scale": 1.0,
        "attention_scale": scalar**-0.5,
        "logit_scale": 1.0,
    }
    if family.multipliers:
        scales["embedding_scale"] = values.positive("embedding_multiplier", 1.0)
        scales["residual_scale"] = values.positive("residual_multiplier", 1.0)
        scales["attention_scale"] = values.positive("attention_multiplier", 1.0)
        scales["logit_scale"] = 1.0 / values.positive("logits_scaling", 1.0)
    return scales


def _activation(values: ConfigValues, model_type: str, family: Family) -> Activation:
    name = values.config.get(family.activation_key)
    activation = _ACTIVATIONS.get(name) if isinstance(name, str) else None
    if activation is None:
        raise UnsupportedArchitectureError(
            f"{values.path}: {family.activation_key} {name!r} of this {model_type} is not supported; "
            f"supported: {', '.join(SUPPORTED_ACTIVATIONS)}"
        )
    return "gelu_tanh" if activation == "gelu" and family.exact_gelu_means_tanh else activation


def _layer_forms(
    values: ConfigValues, model_type: str, family: Family, layers: int, head_dim: int, max_positions: int
) -> tuple[LayerForm, ...]:
    kinds = values.texts("layer_types") if family.obeys_layer_types else None
    if kinds is None:
        kinds = family.layer_types(values, layers)
    elif len(kinds) != layers:
        raise CheckpointError(f"{values.path}: layer_types holds {len(kinds)} kinds, but num_hidden_layers is {layers}")
    if "use_sliding_window" in family.defaults and not values.flag("use_sliding_window"):
        windows = dict.fromkeys((FULL, SLIDING))
    else:
        windows = {FULL: None, SLIDING: values.size("sliding_window") if SLIDING in kinds else None}
    ropes = _ropes(values, model_type, family, head_dim, max_positions)
    turned = rope_layers(values, layers) if family.layers_without_rope else [True] * layers
    return tuple(
        LayerForm(windows[kind], ropes[kind] if has_rope else None)
        for kind, has_rope in zip(kinds, turned, strict=True)
    )


def _ropes(values: ConfigValues, model_type: str, family: Family, head_dim: int, max_positions: int) -> dict[str, Rope]:
    """The rotary embedding of each kind of layer.

    It stands in ``rope_parameters`` (transformers 5), or in ``rope_theta`` and ``rope_scaling`` (before).
    """
    scaling, parameters = values.section("rope_scaling"), values.section("rope_parameters")
    theta = values.positive("rope_theta")
    by_layer_type = family.local_rope_theta is not None
    original = values.config.get("original_max_position_embeddings")
    reader = RopeReader(
        model_type=model_type,
        head_dim=head_dim,
        max_positions=max_positions,
        original_positions=None
        if by_layer_type or original is None
        else values.size("original_max_position_embeddings"),
        takes_partial=family.partial_rotary,
    )
    if not by_layer_type:
        section = scaling if scaling is not None and scaling.config else parameters
        partial = values.config.get("partial_rotary_factor")
        given = {} if section is None else dict(section.config)
        if partial is not None:
            given.setdefault("partial_rotary_factor", partial)
        rope = reader.read(ConfigValues(given, values.path), theta)
        return {FULL: rope, SLIDING: rope}
    sections = {kind: None if parameters is None else parameters.section(kind) for kind in (FULL, SLIDING)}
    full = {} if sections[FULL] is None else dict(sections[FULL].config)
    full |= {} if scaling is None else dict(scaling.config)
    full.pop("truncate", None)  # transformers looks for it outside of the section, where it never is
    local = sections[SLIDING] or ConfigValues({}, values.path)
    key = family.local_rope_theta_key
    local_theta = values.positive(key, family.local_rope_theta) if key else family.local_rope_theta
    return {
        FULL: reader.read(ConfigValues(full, values.path), theta),
        SLIDING: reader.read(local, local_theta or theta),
    }
