"""What each ``model_type`` fixes that its config.json does not say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from fathom_export.decoder.config_values import ConfigValues

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"

NormPlacement = Literal["before", "after", "both"]
"""Where attention and the MLP have their norms: on what goes in, on what comes out, or on both."""
QkNorm = Literal["head", "projection"]
"""What a norm of queries and keys goes over: each head by itself, or all heads together."""
LayerTypes = Callable[[ConfigValues, int], list[str]]
"""The kind of attention of each layer, where config.json has no ``layer_types`` that counts."""


def _all_full(values: ConfigValues, layers: int) -> list[str]:
    return [FULL] * layers


def _all_sliding_if_windowed(values: ConfigValues, layers: int) -> list[str]:
    return [FULL if values.config.get("sliding_window") is None else SLIDING] * layers


def _sliding_from_a_layer_on(values: ConfigValues, layers: int) -> list[str]:
    """Qwen's: behind a flag."""
    if not values.flag("use_sliding_window") or values.config.get("sliding_window") is None:
        return [FULL] * layers
    full = values.size("max_window_layers", least=0)
    return [FULL if layer < full else SLIDING for layer in range(layers)]


def _full_every(period: int, key: str | None = None) -> LayerTypes:
    """One layer of full attention after ``period`` − 1 sliding ones; config.json may give another period by a key."""

    def layer_types(values: ConfigValues, layers: int) -> list[str]:
        length = values.size(key, period) if key else period
        return [SLIDING if (layer + 1) % length else FULL for layer in range(layers)]

    return layer_types


def _sliding_without_rope(values: ConfigValues, layers: int) -> list[str]:
    """SmolLM3's: layers without rotary embedding may slide, behind a flag."""
    if not values.flag("use_sliding_window") or values.config.get("sliding_window") is None:
        return [FULL] * layers
    return [FULL if turned else SLIDING for turned in rope_layers(values, layers)]


def rope_layers(values: ConfigValues, layers: int) -> list[bool]:
    """Which layers have a rotary embedding, of a SmolLM3: ``no_rope_layers`` is 1 where there is one."""
    if values.config.get("no_rope_layers") is not None:
        return [number != 0 for number in values.numbers("no_rope_layers", layers)]
    interval = values.size("no_rope_layer_interval")
    return [(layer + 1) % interval != 0 for layer in range(layers)]


@dataclass(frozen=True, slots=True)
class Family:
    """One ``model_type``.

    ``defaults`` are the values of transformers' configuration class for keys that published config.json files leave
    out; ``norm_offset`` is added to the weights of every norm; a ``…_key`` names what config.json has a say in, None
    where it has none. ``fused_projections``: query, key and value are stored as one matrix, gate and up as another.
    ``scaled_embeddings``: by the root of the hidden size. ``query_scalar``: attention is scaled by the root of
    ``query_pre_attn_scalar`` instead of the head's size. ``local_rope_theta``: sliding layers have a rotary embedding
    of their own, with this base where config.json gives none. ``inside``: where a model of more than text has its
    decoder's configuration.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    norm_placement: NormPlacement = "before"
    norm_offset: float = 0.0
    qk_norm: QkNorm | None = None
    qkv_bias: bool = False
    qkv_bias_key: str | None = None
    output_bias_key: str | None = None
    mlp_bias_key: str | None = None
    fused_projections: bool = False
    activation_key: str = "hidden_act"
    exact_gelu_means_tanh: bool = False
    scaled_embeddings: bool = False
    multipliers: bool = False
    query_scalar: bool = False
    attention_softcap: bool = False
    logit_softcap: bool = False
    partial_rotary: bool = False
    layers_without_rope: bool = False
    local_rope_theta: float | None = None
    local_rope_theta_key: str | None = None
    obeys_layer_types: bool = False
    layer_types: LayerTypes = _all_full
    inside: str | None = None


_LLAMA: Final = Family(
    defaults={"rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": False, "hidden_act": "silu"},
    qkv_bias_key="attention_bias",
    output_bias_key="attention_bias",
    mlp_bias_key="mlp_bias",
)
_MISTRAL: Final = Family(
    defaults={**_LLAMA.defaults, "sliding_window": 4096},
    layer_types=_all_sliding_if_windowed,
)
_QWEN_2: Final = Family(
    defaults={**_LLAMA.defaults, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28},
    qkv_bias=True,
    obeys_layer_types=True,
    layer_types=_sliding_from_a_layer_on,
)
_OLMO_2: Final = Family(
    defaults={**_LLAMA.defaults, "rms_norm_eps": 1e-5},
    norm_placement="after",
    qk_norm="projection",
    qkv_bias_key="attention_bias",
    output_bias_key="attention_bias",
)
_GEMMA: Final = Family(
    defaults={
        "head_dim": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "hidden_act": "gelu_pytorch_tanh",
    },
    norm_offset=1.0,
    qkv_bias_key="attention_bias",
    output_bias_key="attention_bias",
    exact_gelu_means_tanh=True,
    scaled_embeddings=True,
)
_GEMMA_2_AND_3_DEFAULTS: Final = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_GEMMA_2: Final = replace(
    _GEMMA,
    defaults={
        **_GEMMA_2_AND_3_DEFAULTS,
        "vocab_size": 256_000,
        "max_position_embeddings": 8192,
        "rope_theta": 10_000.0,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    norm_placement="both",
    activation_key="hidden_activation",
    exact_gelu_means_tanh=False,
    query_scalar=True,
    attention_softcap=True,
    logit_softcap=True,
    obeys_layer_types=True,
    layer_types=_full_every(2),
)
_GEMMA_3: Final = replace(
    _GEMMA_2,
    defaults={
        **_GEMMA_2_AND_3_DEFAULTS,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "rope_theta": 1_000_000.0,
    },
    qk_norm="head",
    attention_softcap=False,
    local_rope_theta=10_000.0,
    local_rope_theta_key="rope_local_base_freq",
    layer_types=_full_every(6, "sliding_window_pattern"),
)

FAMILIES: Final[Mapping[str, Family]] = {
    "gemma": _GEMMA,
    "gemma2": _GEMMA_2,
    "gemma3": replace(_GEMMA_3, inside="text_config"),
    "gemma3_text": _GEMMA_3,
    "granite": replace(_LLAMA, multipliers=True),
    "llama": _LLAMA,
    "ministral": replace(_MISTRAL, obeys_layer_types=True),
    "mistral": _MISTRAL,
    "olmo2": _OLMO_2,
    "olmo3": replace(
        _OLMO_2,
        defaults={**_OLMO_2.defaults, "rope_theta": 500_000.0, "sliding_window": 4096},
        local_rope_theta=500_000.0,
        obeys_layer_types=True,
        layer_types=_full_every(4),
    ),
    "phi3": Family(
        defaults={
            **_LLAMA.defaults,
            "rms_norm_eps": 1e-5,
            "original_max_position_embeddings": 4096,
            "sliding_window": None,
        },
        fused_projections=True,
        partial_rotary=True,
        layer_types=_all_sliding_if_windowed,
    ),
    "qwen2": _QWEN_2,
    "qwen3": replace(
        _QWEN_2,
        defaults={**_QWEN_2.defaults, "head_dim": 128},
        qkv_bias=False,
        qkv_bias_key="attention_bias",
        output_bias_key="attention_bias",
        qk_norm="head",
    ),
    "seed_oss": Family(
        defaults={**_LLAMA.defaults, "attention_bias": True, "attention_out_bias": False, "head_dim": 128},
        qkv_bias_key="attention_bias",
        output_bias_key="attention_out_bias",
        mlp_bias_key="mlp_bias",
    ),
    "smollm3": replace(
        _LLAMA,
        defaults={
            **_LLAMA.defaults,
            "rope_theta": 2_000_000.0,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "no_rope_layer_interval": 4,
        },
        layers_without_rope=True,
        obeys_layer_types=True,
        layer_types=_sliding_without_rope,
    ),
}

SUPPORTED_MODEL_TYPES: Final = tuple(sorted(FAMILIES))
