"""Every source and setting that a decoder cannot be built from: what is said, and that nothing is left behind."""

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.export.decoder.checkpoints import KINDS
from transformers import CONFIG_MAPPING

from fathom_export.decoder import DecoderArchitecture, build_decoder, eos_token_ids
from fathom_export.decoder.families import FAMILIES
from fathom_export.errors import (
    CheckpointError,
    ExportError,
    InvalidContextError,
    InvalidPrecisionError,
    UnsupportedArchitectureError,
)

WEIGHTS = "model.safetensors"
SUPPORTED = ["gemma", "gemma2", "gemma3", "gemma3_text", "granite", "llama", "ministral", "mistral"]
SUPPORTED += ["olmo2", "olmo3", "phi3", "qwen2", "qwen3", "seed_oss", "smollm3"]


@pytest.fixture
def source(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint of its own, to break."""
    return Path(shutil.copytree(checkpoint("llama-untied"), tmp_path / "source"))


@pytest.fixture
def sharded(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint in shards, to break."""
    return Path(shutil.copytree(checkpoint("llama-sharded"), tmp_path / "sharded"))


def refusal(source: Path, expected: type[ExportError], **settings: Any) -> str:
    """Build from a source that must be refused; the message, once it is sure that no file was written."""
    destination = source.parent / "destination"
    destination.mkdir()
    with pytest.raises(expected) as caught:
        build_decoder(source, destination, **({"dialect": "cpu", "precision": "fp32"} | settings))
    assert list(destination.iterdir()) == []
    return str(caught.value)


def change_config(source: Path, **changes: Any) -> None:
    """Set keys of config.json; ``...`` removes one."""
    path = source / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def change_tensors(source: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Rewrite the weights after a change."""
    tensors = load_file(source / WEIGHTS)
    change(tensors)
    save_file(tensors, source / WEIGHTS)


# ---- config.json ----


def test_a_source_that_does_not_exist_is_refused(tmp_path: Path):
    """The path is named, and what it should have been."""
    message = refusal(tmp_path / "nowhere", CheckpointError)

    assert "nowhere/config.json does not exist" in message
    assert "safetensors" in message


def test_a_source_that_is_a_file_is_refused(tmp_path: Path):
    """A file is no folder."""
    (tmp_path / "file").write_text("")

    assert "must be a folder" in refusal(tmp_path / "file", CheckpointError)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "not valid JSON"), ("[1]", "holds a JSON list"), ("{}", "no model_type")]
)
def test_a_config_that_is_no_config_is_refused(text, said, source):
    """Broken JSON, another type, and an object that is no transformers config."""
    (source / "config.json").write_text(text)

    assert said in refusal(source, CheckpointError)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mamba"}, ["'mamba'", ", ".join(SUPPORTED)]),
        ({"model_type": ["llama"]}, ["['llama']", ", ".join(SUPPORTED)]),
        ({"architectures": ["LlamaForSequenceClassification"]}, ["LlamaForSequenceClassification", "ForCausalLM"]),
        ({"hidden_act": "relu2"}, ["hidden_act 'relu2'", "llama", "gelu, gelu_new, gelu_pytorch_tanh, silu"]),
        ({"quantization_config": {"quant_method": "awq"}}, ["already quantised", "bfloat16"]),
        (
            {"rope_parameters": {"rope_type": "mrope", "rope_theta": 5e5}},
            ["'mrope'", "llama3, longrope, yarn"],
        ),
        ({"rope_parameters": ..., "rope_scaling": {"type": "axial", "factor": 2}}, ["'axial'", "default"]),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, ["partial_rotary_factor 0.5"]),
        ({"layer_types": ["full_attention", "linear_attention"]}, ["linear_attention", "full_attention"]),
        ({"head_dim": 24}, ["head_dim 24", "cpu", "multiples of 16", "portable"]),
        (
            {"model_type": "phi3", "head_dim": 32, "rope_parameters": {"partial_rotary_factor": 0.75}},
            ["24 rotary values a head", "cpu", "multiples of 16", "portable"],
        ),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, ["both directions", "gemma2"]),
        (
            {
                "model_type": "phi3",
                "max_position_embeddings": 512,
                "original_max_position_embeddings": 64,
                "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
                "max_context": 65,
            },
            ["longrope of this phi3", "set max_context to 64 or less (it is 65)"],
        ),
    ],
)
def test_what_the_builder_cannot_write_is_refused_by_name(changes, said, source):
    """The model type or feature is named, with what is supported."""
    settings = {"max_context": changes["max_context"]} if "max_context" in changes else {}
    change_config(source, **changes)

    message = refusal(source, UnsupportedArchitectureError, **settings)

    assert [words for words in said if words not in message] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"vocab_size": "320"}, "vocab_size is '320'"),
        ({"intermediate_size": 96.5}, "intermediate_size is 96.5"),
        ({"num_attention_heads": True}, "num_attention_heads is True"),
        ({"max_position_embeddings": ...}, "lacks max_position_embeddings"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": None}, "hidden_size 64 is not a multiple"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"rope_parameters": {"rope_theta": -1}}, "rope_theta is -1"),
        ({"rope_parameters": [1]}, "rope_parameters is [1]"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"architectures": 7}, "architectures is 7; it must be a list of texts"),
        ({"layer_types": {"0": "full_attention"}}, "layer_types is {'0': 'full_attention'}; it must be a list of"),
        ({"rope_parameters": {"rope_type": "linear"}}, "lacks factor"),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}},
            "low_freq_factor 4.0 must be below high_freq_factor 1.0",
        ),
        (
            {"model_type": "phi3", "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}},
            "short_factor is [1.0]; it must be a list of 8 numbers",
        ),
        (
            {"model_type": "phi3", "rope_parameters": {"partial_rotary_factor": 0.2}},
            "partial_rotary_factor 0.2 of head_dim 16 turns 3 values",
        ),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0"),
        ({"model_type": "olmo3", "layer_types": ["full_attention"]}, "layer_types holds 1 kinds"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers is [1]; it must be a list of 3 numbers"),
        ({"model_type": "gemma3"}, "lacks text_config"),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes, said, source):
    """The key and its value are named."""
    change_config(source, **changes)

    message = refusal(source, CheckpointError)

    assert said in message
    assert "config.json" in message


@pytest.mark.parametrize(
    ("rope", "theta"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
        ({"rope_parameters": ..., "rope_theta": 1e6, "rope_scaling": None}, 1e6),
        ({"rope_parameters": ..., "rope_theta": 1e6, "rope_scaling": {"type": "default"}}, 1e6),
        ({"rope_parameters": ...}, 1e4),
    ],
)
def test_the_rotary_base_is_read_in_old_and_new_spelling(rope, theta, source):
    """rope_parameters of transformers 5, rope_theta of before, and its default."""
    change_config(source, **rope)

    assert {form.rope.theta for form in DecoderArchitecture.load(source).layer_forms} == {theta}


FULL, SLIDING = "full_attention", "sliding_attention"
QWEN_WINDOW = {"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True}


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"model_type": "mistral", "sliding_window": 64}, [64, 64, 64]),
        ({"model_type": "mistral", "sliding_window": None}, [None, None, None]),
        ({"model_type": "phi3", "sliding_window": 64}, [64, 64, 64]),
        (QWEN_WINDOW | {"max_window_layers": 1}, [None, 64, 64]),
        (QWEN_WINDOW | {"max_window_layers": 3}, [None, None, None]),
        (QWEN_WINDOW | {"use_sliding_window": False}, [None, None, None]),
        (QWEN_WINDOW | {"layer_types": [FULL, FULL, SLIDING]}, [None, None, 64]),
        ({"model_type": "gemma2", "sliding_window": 64}, [64, None, 64]),
        ({"model_type": "gemma3_text", "sliding_window": 64, "sliding_window_pattern": 3}, [64, 64, None]),
        ({"model_type": "olmo3", "sliding_window": 64}, [64, 64, 64]),
        ({"model_type": "llama", "sliding_window": 64, "layer_types": [SLIDING] * 3}, [None, None, None]),
    ],
)
def test_a_sliding_window_is_that_of_each_layer(changes, windows, source):
    """By the rule of each model type, as transformers has it; Qwen's configs carry one that is switched off."""
    change_config(source, **changes)

    assert [form.window for form in DecoderArchitecture.load(source).layer_forms] == windows


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_what_a_config_leaves_out_is_what_transformers_takes(model_type):
    """Each family's defaults are those of transformers' configuration class."""
    config = CONFIG_MAPPING[model_type]()
    config = getattr(config, FAMILIES[model_type].inside or "", config)
    rope = config.rope_parameters
    actual = config.to_dict() | {"rope_theta": rope.get("full_attention", rope)["rope_theta"]}
    # Qwen's class forgets the window's size while the flag is off
    actual |= {"sliding_window": 4096} if model_type in ("qwen2", "qwen3") else {}

    defaults = dict(FAMILIES[model_type].defaults)

    assert {key: actual[key] for key in defaults} == defaults
    local = FAMILIES[model_type].local_rope_theta
    assert local == (rope["sliding_attention"]["rope_theta"] if "sliding_attention" in rope else None)


def test_the_readme_names_every_model_type_and_no_other():
    """The table of architectures is that of the code, and each has a checkpoint in the tests."""
    readme = (Path(__file__).parents[3] / "export" / "README.md").read_text(encoding="utf-8")
    table = readme.split("## Decoders")[1].split("For each")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")][1:]

    assert sorted(re.findall(r"`([a-z0-9_]+)`", " ".join(cells))) == SUPPORTED == sorted(FAMILIES)
    assert {name.replace("-", "_") for name in KINDS} >= {name for name in SUPPORTED if name not in ("llama", "qwen3")}


@pytest.mark.parametrize(
    ("scaling", "theta", "local_theta"),
    [
        ({}, 1e6, 1e4),
        ({"rope_theta": 5e5, "rope_local_base_freq": 2e4}, 5e5, 2e4),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 5e5, 1e4),
        ({"rope_parameters": {FULL: {"rope_theta": 3e5}, SLIDING: {"rope_theta": 7e3}}}, 3e5, 7e3),
    ],
)
def test_global_and_local_layers_have_rotary_bases_of_their_own(scaling, theta, local_theta, source):
    """Gemma 3's, in old and new spelling; a scaling is that of the global layers alone."""
    layer_types = {"layer_types": [SLIDING, FULL, SLIDING]}
    change_config(source, model_type="gemma3_text", **{"rope_parameters": ...} | scaling | layer_types)

    local, whole, _ = (form.rope for form in DecoderArchitecture.load(source).layer_forms)

    assert (whole.theta, local.theta) == (theta, local_theta)
    assert local.scaling is None
    assert (whole.scaling is None) == ("rope_scaling" not in scaling)


# ---- settings ----


@pytest.mark.parametrize(
    "settings", [{"dialect": "portable", "precision": "int8"}, {"precision": "fp8"}, {"dialect": "x"}]
)
def test_a_precision_that_the_dialect_lacks_is_refused(settings, source):
    """The valid pairs are named."""
    message = refusal(source, InvalidPrecisionError, **settings)

    assert "valid pairs: cpu: fp32, int8, int4; portable: fp32, fp16, fp8" in message


@pytest.mark.parametrize("max_context", [0, -3, 257])
def test_a_context_beyond_the_model_is_refused(max_context, source):
    """The value and the model's limit are named."""
    message = refusal(source, InvalidContextError, max_context=max_context)

    assert f"max_context is {max_context}" in message
    assert "1 to 256 tokens" in message


@pytest.mark.parametrize("ids", ["</s>", [1, "x"], -1, True])
def test_an_eos_token_that_is_no_id_is_refused(ids, source):
    """The file and the value are named."""
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))

    with pytest.raises(CheckpointError, match=r"generation_config\.json: eos_token_id is"):
        eos_token_ids(source)


# ---- weights ----


def test_a_folder_without_weights_is_refused(source):
    """Both names that were looked for are told."""
    (source / WEIGHTS).unlink()

    message = refusal(source, CheckpointError)

    assert "neither model.safetensors nor model.safetensors.index.json" in message


def test_pickled_weights_are_refused_with_the_way_to_convert_them(source):
    """They are never read: the file here would run code."""
    marker = source / "ran"
    (source / WEIGHTS).unlink()
    (source / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())

    message = refusal(source, CheckpointError)

    assert "pytorch_model.bin" in message
    assert "save_pretrained(FOLDER, safe_serialization=True)" in message
    assert not marker.exists()


@pytest.mark.parametrize("kept_bytes", [0, 5, 100, 2000, -1000])
def test_a_truncated_file_is_refused(kept_bytes, source):
    """Cut in the length, in the header and in the data."""
    whole = (source / WEIGHTS).read_bytes()
    (source / WEIGHTS).write_bytes(whole[:kept_bytes])

    message = refusal(source, CheckpointError)

    assert f"{WEIGHTS} is truncated" in message
    assert "download it again" in message


def test_a_git_lfs_pointer_is_refused_by_its_name(source):
    """What stands where a repository was cloned without its large files."""
    (source / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")

    assert "git lfs pull" in refusal(source, CheckpointError)


@pytest.mark.parametrize("header", [b"not json", b"[]", b'{"x": {}}', b'{"x": 3}', b"\xff\xfe"])
def test_a_file_with_a_broken_header_is_refused(header, source):
    """A length that fits, and no safetensors header behind it."""
    (source / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)

    assert "is not a safetensors file" in refusal(source, CheckpointError)


def test_offsets_that_do_not_fit_a_tensor_are_refused(source):
    """A header that gives a tensor fewer bytes than its shape takes."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}}).encode()
    (source / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))

    assert "tensor x of F32 [4] does not fit" in refusal(source, CheckpointError)


def test_a_missing_tensor_is_refused(source):
    """The tensor is named."""
    change_tensors(source, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))

    assert "lack tensor model.layers.1.mlp.up_proj.weight" in refusal(source, CheckpointError)


def test_a_tensor_of_another_shape_than_the_config_is_refused(source):
    """The tensor and both shapes are named."""
    change_config(source, intermediate_size=97)

    assert "shape [96, 64], but config.json asks for [97, 64]" in refusal(source, CheckpointError)


def test_a_tensor_of_an_unreadable_dtype_is_refused(source):
    """The dtype is named with those that can be read."""
    name = "model.norm.weight"
    change_tensors(source, lambda tensors: tensors.update({name: tensors[name].astype(np.float64)}))

    message = refusal(source, CheckpointError)

    assert "model.norm.weight is of dtype F64" in message
    assert "F32, F16, BF16" in message


def test_weights_that_are_not_numbers_are_refused(source):
    """The tensor is named, and what was written before it was found is gone."""
    change_tensors(source, lambda tensors: tensors["lm_head.weight"].__setitem__((3, 3), np.nan))

    assert "tensor lm_head.weight holds values" in refusal(source, CheckpointError)


def test_weights_that_no_part_of_the_graph_reads_are_refused(source):
    """A checkpoint with an adapter's weights would answer otherwise than the graph."""
    name = "model.layers.0.self_attn.q_proj.lora_A.weight"
    change_tensors(source, lambda tensors: tensors.update({name: np.zeros((4, 64), np.float32)}))

    message = refusal(source, UnsupportedArchitectureError)

    assert name in message
    assert "merged" in message


def test_what_old_checkpoints_store_besides_is_passed_over(source, tmp_path: Path):
    """Rotary frequencies follow from the config."""
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(source, lambda tensors: tensors.update({name: np.zeros(8, np.float32)}))

    assert build_decoder(source, tmp_path, dialect="cpu", precision="fp32").layers == 3


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "/etc/passwd", "a/../../b", "..\\b"])
def test_a_shard_outside_the_folder_is_refused(shard, sharded):
    """However it is spelled, and whether it exists or not."""
    shutil.copy(next(sharded.glob("*-of-*.safetensors")), sharded.parent / "elsewhere.safetensors")
    change_index(sharded, shard)

    message = refusal(sharded, CheckpointError)

    assert repr(shard) in message
    assert "leaves the checkpoint's folder" in message


def change_index(sharded: Path, shard: str) -> None:
    """Say in the index that the first tensor is in this shard."""
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][min(index["weight_map"])] = shard
    path.write_text(json.dumps(index))


def test_an_absent_shard_is_refused(sharded):
    """The shard is named."""
    change_index(sharded, "model-00099-of-00099.safetensors")

    assert "'model-00099-of-00099.safetensors', but the file is absent" in refusal(sharded, CheckpointError)


def test_a_shard_without_the_tensor_that_the_index_promises_is_refused(sharded):
    """Shard and tensor are named."""
    change_index(sharded, min(path.name for path in sharded.glob("*-of-*.safetensors")))

    assert "holds tensor lm_head.weight, but it does not" in refusal(sharded, CheckpointError)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": {}}', '{"weight_map": 3}'])
def test_an_index_without_a_weight_map_is_refused(index, sharded):
    """The index is named."""
    (sharded / "model.safetensors.index.json").write_text(index)

    assert "index.json has no weight_map" in refusal(sharded, CheckpointError)


def test_shards_that_are_links_out_of_the_folder_are_read(sharded, tmp_path: Path):
    """That is how a hub cache stores every file."""
    (tmp_path / "blobs").mkdir()
    for number, shard in enumerate(sorted(sharded.glob("*-of-*.safetensors"))):
        shutil.move(shard, tmp_path / "blobs" / str(number))
        shard.symlink_to(tmp_path / "blobs" / str(number))

    assert build_decoder(sharded, tmp_path, dialect="cpu", precision="fp32").layers == 3
