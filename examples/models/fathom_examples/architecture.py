"""Two sizes of one architecture (Qwen3: grouped-query attention, qk-norm, tied embeddings), and their export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fathom_examples.chat_tokenizer import MAX_POSITIONS, SPECIAL_TOKENS, VOCABULARY_SIZE

if TYPE_CHECKING:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

END_OF_TEXT_ID, IM_START_ID, IM_END_ID = range(len(SPECIAL_TOKENS))


@dataclass(frozen=True, slots=True)
class Size:
    """Dimensions of one model, and its peak learning rate."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    learning_rate: float


SIZES = {
    "small": Size(128, 384, 4, 4, 2, 32, 5e-3),
    "large": Size(256, 768, 6, 8, 4, 32, 3e-3),
}


def model_config(size: Size) -> Qwen3Config:
    """The transformers configuration of one size."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=IM_END_ID,
        pad_token_id=END_OF_TEXT_ID,
    )


def build_model(size: Size) -> Qwen3ForCausalLM:
    """A freshly initialised fp32 model."""
    from transformers import Qwen3ForCausalLM

    return Qwen3ForCausalLM(model_config(size))


def export_model(
    size: Size, weights: Mapping[str, torch.Tensor], folder: Path, training: Mapping[str, int | float]
) -> None:
    """Write config, generation config and bf16 safetensors into ``folder``, beside first and then renamed over.

    ``training`` (steps, tokens, seconds) is written as ``training.json``, which the model card quotes.
    """
    import torch

    model = build_model(size)
    model.load_state_dict(weights)
    model = model.to(torch.bfloat16)
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    generation = {
        "do_sample": False,
        "eos_token_id": [IM_END_ID, END_OF_TEXT_ID],
        "pad_token_id": END_OF_TEXT_ID,
        "max_new_tokens": 128,
    }
    for name, value in (("generation_config.json", generation), ("training.json", dict(training))):
        (beside / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for path in beside.iterdir():
        path.chmod(0o644)
        path.replace(folder / path.name)
    beside.rmdir()
