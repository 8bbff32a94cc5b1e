"""Tiny random checkpoints, written by transformers, whose every weight matters to the answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MinistralConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SeedOssConfig,
    SmolLM3Config,
)

VOCABULARY = 320
MAX_POSITIONS = 256


@dataclass(frozen=True)
class Kind:
    """One checkpoint: its configuration, and how it is stored."""

    config: Callable[..., PreTrainedConfig]
    changes: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    max_shard_size: str = "5GB"


WINDOW = 24
"""Far below the contexts that tests reach, so that it hides keys of a prompt and of its answer."""
LONG_ROPE_POSITIONS = 192
SLIDING_FIRST = ["sliding_attention", "full_attention", "sliding_attention"]


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    """``rope_parameters`` of a kind, whose frequencies are all far from those without scaling."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4} | parameters}


def picture_reader(**sizes: Any) -> Gemma3Config:
    """A Gemma 3 of text and pictures, its decoder of these sizes."""
    vision: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    return Gemma3Config(
        text_config=Gemma3TextConfig(**sizes), vision_config=vision | {"model_type": "siglip_vision_model"}
    )


GEMMA_3 = {
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": WINDOW,
    "layer_types": SLIDING_FIRST,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
    },
}

KINDS = {
    "llama-untied": Kind(LlamaConfig),
    "llama-tied": Kind(LlamaConfig, {"tie_word_embeddings": True}),
    "llama-biases": Kind(LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama-no-grouping": Kind(LlamaConfig, {"num_key_value_heads": 4}),
    "llama-wide-heads": Kind(LlamaConfig, {"head_dim": 32}),
    "llama-odd-sizes": Kind(LlamaConfig, {"hidden_size": 72, "head_dim": 48, "intermediate_size": 93}),
    "llama-bf16": Kind(LlamaConfig, dtype=torch.bfloat16),
    "llama-fp16": Kind(LlamaConfig, dtype=torch.float16),
    "llama-sharded": Kind(LlamaConfig, max_shard_size="100KB"),
    "mistral": Kind(
        MistralConfig, {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    ),
    "llama-linear": Kind(LlamaConfig, rope("linear", factor=3.0)),
    "llama-dynamic": Kind(LlamaConfig, rope("dynamic", factor=2.0)),
    "llama-llama3": Kind(
        LlamaConfig,
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    ),
    "llama-yarn": Kind(
        LlamaConfig, rope("yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=8.0, beta_slow=0.5)
    ),
    "qwen3-yarn": Kind(
        Qwen3Config,
        {"head_dim": 16} | rope("yarn", factor=8.0, original_max_position_embeddings=32, attention_factor=1.3),
    ),
    "mistral-windowed": Kind(MistralConfig, {"sliding_window": WINDOW}),
    "ministral": Kind(MinistralConfig, {"head_dim": 16, "sliding_window": WINDOW, "layer_types": SLIDING_FIRST}),
    "qwen2-windowed": Kind(Qwen2Config, {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "phi3": Kind(Phi3Config, {"sliding_window": WINDOW}),
    "phi3-partial": Kind(
        Phi3Config,
        {"num_attention_heads": 2, "num_key_value_heads": 1} | rope("default", partial_rotary_factor=0.5),
    ),
    "phi3-longrope": Kind(
        Phi3Config,
        {"original_max_position_embeddings": LONG_ROPE_POSITIONS}
        | rope("longrope", short_factor=[1.0, 1.1, 1.3, 1.7, 2.0, 3.0, 4.0, 5.0], long_factor=[8.0] * 8),
    ),
    "smollm3": Kind(SmolLM3Config, {"no_rope_layers": [1, 0, 1]}),
    "smollm3-windowed": Kind(
        SmolLM3Config,
        {"no_rope_layers": [0, 1, 0], "use_sliding_window": True, "sliding_window": WINDOW, "attention_bias": True},
    ),
    "olmo2": Kind(Olmo2Config),
    "olmo3": Kind(
        Olmo3Config,
        {
            "sliding_window": WINDOW,
            "layer_types": SLIDING_FIRST,
            "rope_parameters": {
                "full_attention": rope("yarn", factor=4.0, original_max_position_embeddings=64)["rope_parameters"],
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "granite": Kind(
        GraniteConfig,
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.6,
            "attention_multiplier": 0.4,
            "logits_scaling": 5.0,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "seed-oss": Kind(SeedOssConfig, {"head_dim": 32, "attention_dropout": 0.0, "residual_dropout": 0.0}),
    "gemma": Kind(GemmaConfig, {"head_dim": 32, "num_key_value_heads": 1}),
    "gemma2": Kind(
        Gemma2Config,
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 0.3,
        },
    ),
    "gemma3-text": Kind(Gemma3TextConfig, GEMMA_3 | {"final_logit_softcapping": 0.3}),
    "gemma3": Kind(picture_reader, GEMMA_3),
    "qwen2": Kind(Qwen2Config),
    "qwen3-tied": Kind(Qwen3Config, {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3-biases": Kind(Qwen3Config, {"head_dim": 16, "attention_bias": True}),
}


def write_checkpoint(kind: str, folder: Path) -> Path:
    """Write a checkpoint of a kind into ``folder``.

    Weights are far larger than at the start of a training, so that arg-maxes have margins and attention has peaks;
    norms and biases are random, so that leaving one out shows.
    """
    form = KINDS[kind]
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_POSITIONS,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    torch.manual_seed(sum(map(ord, kind)))
    model = AutoModelForCausalLM.from_config(form.config(**sizes | dict(form.changes)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
                if "gemma" in model.config.model_type:  # which adds 1
                    weight.sub_(1)
            elif name.endswith("bias"):
                weight.normal_(0, 0.5)
            elif "embed_tokens" in name and "gemma" in model.config.model_type:
                weight.normal_(0, 0.02)  # times 8 in the model: larger ones of a tied head would only repeat the prompt
            else:
                weight.normal_(0, 0.2)
    model.to(form.dtype).save_pretrained(folder, max_shard_size=form.max_shard_size)
    return folder


def supported_context(kind: str) -> int:
    """The longest context, in tokens, that a checkpoint's graph can hold."""
    return LONG_ROPE_POSITIONS if kind == "phi3-longrope" else MAX_POSITIONS


@cache
def reference(folder: Path) -> Any:
    """The checkpoint in transformers, float32."""
    torch.set_num_threads(1)  # models this small only wait for their threads
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def reference_logits(folder: Path, tokens: list[int]) -> Any:
    """Logits of transformers at every position, float32 [sequence, vocabulary]."""
    with torch.no_grad():
        return reference(folder)(torch.tensor([tokens])).logits[0].numpy()


def reference_greedy(folder: Path, prompt: list[int], new_tokens: int) -> list[int]:
    """Greedy tokens of transformers' ``generate``."""
    return list(_greedy(folder, tuple(prompt), new_tokens))


@cache
def _greedy(folder: Path, prompt: tuple[int, ...], new_tokens: int) -> tuple[int, ...]:
    answer = reference(folder).generate(torch.tensor([prompt]), max_new_tokens=new_tokens, do_sample=False)
    return tuple(answer[0, len(prompt) :].tolist())
