"""Checkpoints of random weights, written one tensor at a time, for measuring what large models take."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHARD_BYTES = 1 << 30
WRITTEN_VALUES = 16 << 20
TOKENIZER = Path(__file__).parents[1] / "examples" / "models" / "large"


@dataclass(frozen=True, slots=True)
class RandomModel:
    """A random model: its configuration, its tensors' shapes by name, and how it is exported.

    ``export`` is a program that is given source, destination, precision and what ``forms`` has for the precision.
    """

    config: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    forms: dict[str, str]
    export: str


def llama() -> RandomModel:
    """A Llama of the shape of Llama 3.2 3B, as transformers stores it with a tied head."""
    hidden, layers, heads, kv_heads, head_dim, intermediate, vocabulary = 3072, 28, 24, 8, 128, 8192, 128_256
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        tensors |= {
            f"{name}.input_layernorm.weight": (hidden,),
            f"{name}.self_attn.q_proj.weight": (heads * head_dim, hidden),
            f"{name}.self_attn.k_proj.weight": (kv_heads * head_dim, hidden),
            f"{name}.self_attn.v_proj.weight": (kv_heads * head_dim, hidden),
            f"{name}.self_attn.o_proj.weight": (hidden, heads * head_dim),
            f"{name}.post_attention_layernorm.weight": (hidden,),
            f"{name}.mlp.gate_proj.weight": (intermediate, hidden),
            f"{name}.mlp.up_proj.weight": (intermediate, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, intermediate),
        }
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "rope_theta": 500_000.0,
    }
    forms = {"fp32": "cpu", "int8": "cpu", "int4": "cpu", "fp16": "portable", "fp8": "portable"}
    export = (
        "import sys, pathlib; from fathom_export.decoder import build_decoder; "
        "build_decoder(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), "
        "precision=sys.argv[3], dialect=sys.argv[4], max_context=2048)"
    )
    return RandomModel(config, tensors | {"model.norm.weight": (hidden,)}, forms, export)


def xlm_roberta() -> RandomModel:
    """An XLM-RoBERTa of the large shape (multilingual E5, BGE-M3), whose float32 graph is beyond protobuf's 2 GB."""
    hidden, layers, intermediate, vocabulary, positions = 1024, 24, 4096, 250_002, 514
    tensors: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, hidden),
        "embeddings.position_embeddings.weight": (positions, hidden),
        "embeddings.token_type_embeddings.weight": (1, hidden),
        **_with_bias("embeddings.LayerNorm", (hidden,)),
    }
    for layer in range(layers):
        name = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            tensors |= _with_bias(f"{name}.attention.self.{part}", (hidden, hidden))
        tensors |= _with_bias(f"{name}.attention.output.dense", (hidden, hidden))
        tensors |= _with_bias(f"{name}.attention.output.LayerNorm", (hidden,))
        tensors |= _with_bias(f"{name}.intermediate.dense", (intermediate, hidden))
        tensors |= _with_bias(f"{name}.output.dense", (hidden, intermediate))
        tensors |= _with_bias(f"{name}.output.LayerNorm", (hidden,))
    config = {
        "model_type": "xlm-roberta",
        "architectures": ["XLMRobertaModel"],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "hidden_act": "gelu",
    }
    export = (
        "import sys, pathlib; from fathom_export.encoder.build import build_encoder; build_encoder("
        "pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), precision=sys.argv[3], task=sys.argv[4])"
    )
    return RandomModel(config, tensors, {"fp32": "embed", "int8": "embed", "fp16": "embed"}, export)


def _with_bias(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


MODELS: dict[str, Callable[[], RandomModel]] = {"decoder": llama, "encoder": xlm_roberta}


def write_checkpoint(folder: Path, model: RandomModel) -> int:
    """Write config.json, a tokenizer and random bf16 safetensors in shards, one tensor at a time; gives the bytes."""
    (folder / "config.json").write_text(json.dumps(model.config))
    for path in TOKENIZER.glob("tokenizer*.json"):
        shutil.copyfile(path, folder / path.name)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in model.tensors.items():
        if filled > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += 2 * int(np.prod(shape))
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        path = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(shard, path.name)
        write_shard(path, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def write_shard(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write one safetensors file: norms of 1, and values of either sign between 1/128 and 1/64."""
    generator = np.random.default_rng(sum(path.name.encode()))
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            rest = int(np.prod(shape))
            while rest:
                count = min(rest, WRITTEN_VALUES)
                bits = np.frombuffer(generator.bytes(2 * count), np.uint16)
                file.write(np.full(count, 0x3F80, np.uint16) if len(shape) == 1 else (bits & 0x807F) | 0x3C00)
                rest -= count
