"""Tiny random checkpoints, written by transformers, whose every weight matters to the answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

VOCABULARY = 320
MAX_POSITIONS = 256


@dataclass(frozen=True)
class Kind:
    """One checkpoint: its configuration, and how it is stored."""

    config: Callable[..., PreTrainedConfig]
    changes: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    max_shard_size: str = "5GB"


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
            elif name.endswith("bias"):
                weight.normal_(0, 0.5)
            else:
                weight.normal_(0, 0.2)
    model.to(form.dtype).save_pretrained(folder, max_shard_size=form.max_shard_size)
    return folder


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
