"""The model that everybody serves: random weights in the shape of SmolLM2-360M, and a tokenizer of its vocabulary.

Speed depends on shapes and not on what a model has learnt, so nothing need be downloaded. Seeds make the files the
same everywhere. The tokenizer is a real byte-level BPE, trained on generated text, so that every text round-trips.
"""

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

SEED: Final = 20251121
WEIGHT_SCALE: Final = 0.02
END_TOKEN: Final = "<|endoftext|>"  # noqa: S105  (a token of text, not of access)
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# ruff: noqa: SIM905  (syllables read better as running text than as a column of quotes)
_ONSETS: Final = "b c d f g h j k l m n p r s t v w z bl br ch cl cr dr fl gr pl pr sh sk sl sp st th tr".split()
_VOWELS: Final = "a e i o u ai ea ee ie oa oo ou".split()
_CODAS: Final = ("", *"b d g k l m n p r s t x ck ld ng nk nt rd rk rm rn rt sh st th".split())


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Llama's shape; the defaults are SmolLM2-360M's. Embedding and head are one matrix."""

    hidden: int = 960
    layers: int = 32
    heads: int = 15
    kv_heads: int = 5
    head_dim: int = 64
    intermediate: int = 2560
    vocabulary: int = 49152
    positions: int = 2048

    def config(self) -> dict[str, Any]:
        """``config.json`` as transformers writes it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": WEIGHT_SCALE,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.positions,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 100000,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": self.vocabulary,
        }


TINY: Final = ModelShape(
    hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocabulary=512, positions=2048
)


def write_checkpoint(folder: Path, shape: ModelShape) -> None:
    """Write config, weights (bfloat16 safetensors) and tokenizer; nothing happens if they are there."""
    mark = folder / "shape.json"
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == asdict(shape):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_weights(folder / "model.safetensors", shape)
    _write_tokenizer(folder, shape.vocabulary)
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=2), encoding="utf-8")
    generation = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2), encoding="utf-8")
    mark.write_text(json.dumps(asdict(shape)), encoding="utf-8")


def text_lines(seed: int, count: int) -> Iterator[str]:
    """Sentences of a made-up language: words of syllables, used as often as natural words are (Zipf)."""
    lexicon = random.Random(SEED)
    syllables = ["".join(parts) for parts in itertools.product(_ONSETS, _VOWELS, _CODAS)]
    words = ["".join(lexicon.choices(syllables, k=lexicon.choice((1, 1, 2, 2, 3)))) for _ in range(60_000)]
    ranks = list(itertools.accumulate(1 / (10 + rank) for rank in range(len(words))))
    speaker = random.Random(seed)
    for _ in range(count):
        yield " ".join(speaker.choices(words, cum_weights=ranks, k=speaker.randint(6, 18))).capitalize() + "."


def _write_weights(path: Path, shape: ModelShape) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * WEIGHT_SCALE).to(torch.bfloat16)

    tensors = {"model.embed_tokens.weight": matrix(shape.vocabulary, shape.hidden)}
    tensors["model.norm.weight"] = torch.ones(shape.hidden, dtype=torch.bfloat16)
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    matrices = {
        "self_attn.q_proj": (query, shape.hidden),
        "self_attn.k_proj": (key, shape.hidden),
        "self_attn.v_proj": (key, shape.hidden),
        "self_attn.o_proj": (shape.hidden, query),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }
    for layer in range(shape.layers):
        for name, (rows, columns) in matrices.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = matrix(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = torch.ones(shape.hidden, dtype=torch.bfloat16)
    save_file(tensors, path, metadata={"format": "pt"})


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text_lines(SEED, 60_000 if vocabulary > 4096 else 2_000), trainer)
    trained = tokenizer.get_vocab_size()
    if trained != vocabulary:
        raise RuntimeError(f"the tokenizer has {trained} tokens, not {vocabulary}; give it more text")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_TOKEN,
        "eos_token": END_TOKEN,
        "pad_token": END_TOKEN,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
