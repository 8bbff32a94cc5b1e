"""The form of a decoder graph: operators, names, metadata, and how it is written."""

import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import onnx
import pytest
from tests.export.decoder import checkpoints
from tests.export.decoder.checkpoints import MAX_POSITIONS, VOCABULARY, write_checkpoint

from fathom_export.decoder import build_decoder, eos_token_ids

STANDARD = {
    "Gather",
    "GatherND",
    "MatMul",
    "Mul",
    "Reshape",
    "RMSNormalization",
    "Unsqueeze",
    "Shape",
    "Concat",
    "Gemm",
}
GRAPHS = {
    ("llama-untied", "portable", "fp32"): STANDARD
    | {"Add", "Attention", "LessOrEqual", "RotaryEmbedding", "Sigmoid", "TensorScatter", "Transpose"},
    ("qwen3-tied", "portable", "fp32"): STANDARD
    | {"Add", "Attention", "LessOrEqual", "RotaryEmbedding", "Sigmoid", "TensorScatter", "Transpose"},
    ("gemma2", "portable", "fp32"): STANDARD
    | {"Add", "And", "Gelu", "Greater", "LessOrEqual", "RotaryEmbedding", "Softmax", "Sub", "Tanh", "TensorScatter"}
    | {"Transpose", "Where"},
    ("gemma2", "cpu", "fp32"): STANDARD
    | {"Gelu", "Tanh", "com.microsoft.GroupQueryAttention", "com.microsoft.SkipSimplifiedLayerNormalization"},
    ("olmo2", "cpu", "fp32"): STANDARD
    | {
        "Add",
        "Split",
        "com.microsoft.GroupQueryAttention",
        "com.microsoft.QuickGelu",
        "com.microsoft.SkipSimplifiedLayerNormalization",
    },
    ("llama-untied", "cpu", "fp32"): STANDARD
    | {
        "com.microsoft.GroupQueryAttention",
        "com.microsoft.QuickGelu",
        "com.microsoft.SkipSimplifiedLayerNormalization",
    },
    ("qwen3-tied", "cpu", "int8"): STANDARD - {"MatMul", "Concat", "Gemm"}
    | {
        "Abs",
        "Cast",
        "ConstantOfShape",
        "Max",
        "QuantizeLinear",
        "ReduceMax",
        "Split",
        "com.microsoft.GroupQueryAttention",
        "com.microsoft.MatMulIntegerToFloat",
        "com.microsoft.QuickGelu",
        "com.microsoft.SkipSimplifiedLayerNormalization",
    },
}


@pytest.mark.parametrize(("kind", "dialect", "precision"), GRAPHS)
def test_a_dialect_uses_its_own_operators_only(kind, dialect, precision, graph):
    """The set of operators is the documented one; portable has none of ONNX Runtime's."""
    folder, _ = graph(kind, dialect, precision)
    model = onnx.load(folder / "model.onnx", load_external_data=False)

    operators = {f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph.node}

    assert operators == GRAPHS[kind, dialect, precision]
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 24
    if dialect == "portable":
        assert {entry.domain for entry in model.opset_import} == {""}


@pytest.mark.parametrize(("kind", "dialect", "precision"), GRAPHS)
def test_the_graph_passes_the_checker_with_full_shape_inference(kind, dialect, precision, graph):
    """ONNX's checker accepts it, every node has a name of its own, and node names tell layer and role."""
    folder, _ = graph(kind, dialect, precision)
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)

    names = Counter(node.name for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node)

    assert max(names.values()) == 1
    assert {"embedding", "layer.2.attention.o_proj", "layer.2.mlp.down_proj", "final_norm", "lm_head"} <= set(names)


def shapes(values) -> dict[str, list[int | str]]:
    """Each value's dimensions, sizes or names."""
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values
    }


def test_inputs_and_outputs_of_the_portable_dialect(graph):
    """Names and shapes that the engine feeds; the cache is of static length."""
    folder, description = graph("llama-untied", "portable", "fp32")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    cache = ["batch", 2, MAX_POSITIONS, 16]

    parts = [f"{layer}.{part}" for layer in range(3) for part in ("key", "value")]
    assert shapes(model.graph.input) == {
        "input_ids": ["batch", "sequence"],
        "logit_positions": ["batch", "logit_rows"],
        "position_ids": ["batch", "sequence"],
        "write_indices": ["batch"],
    } | {f"past.{part}": cache for part in parts}
    assert shapes(model.graph.output) == {"logits": ["batch", "logit_rows", VOCABULARY]} | {
        f"present.{part}": cache for part in parts
    }
    assert (description.kv_heads, description.head_dim, description.max_context) == (2, 16, MAX_POSITIONS)


def test_inputs_and_outputs_of_the_cpu_dialect(graph):
    """Names and shapes that the engine feeds; the cache may be of any length."""
    folder, _ = graph("qwen3-tied", "cpu", "int8")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    cache = ["batch", 2, "cache_length", 32]

    parts = [f"{layer}.{part}" for layer in range(3) for part in ("key", "value")]
    assert shapes(model.graph.input) == {
        "input_ids": ["batch", "sequence"],
        "logit_positions": ["batch", "logit_rows"],
        "seqlens_k": ["batch"],
        "total_sequence_length": [],
    } | {f"past.{part}": cache for part in parts}
    assert shapes(model.graph.output) == {"logits": ["batch", "logit_rows", VOCABULARY]} | {
        f"present.{part}": cache for part in parts
    }


def test_the_graph_says_who_wrote_it_and_how(graph):
    """Producer, dialect and precision stand in the model's metadata."""
    folder, _ = graph("qwen3-tied", "cpu", "int8")
    model = onnx.load(folder / "model.onnx", load_external_data=False)

    assert model.producer_name == "fathom-export"
    assert model.producer_version
    assert {entry.key: entry.value for entry in model.metadata_props} == {"dialect": "cpu", "precision": "int8"}


def test_a_tied_embedding_is_written_once(graph):
    """In float32 the LM head reads the embedding's tensor."""
    folder, _ = graph("qwen3-tied", "cpu", "fp32")
    model = onnx.load(folder / "model.onnx", load_external_data=False)

    assert [list(tensor.dims) for tensor in model.graph.initializer].count([VOCABULARY, 64]) == 1


def test_progress_counts_every_tensor_once(checkpoint, tmp_path: Path):
    """Progress ends at its total and never goes back."""
    calls: list[tuple[int, int]] = []

    build_decoder(
        checkpoint("qwen2"),
        tmp_path,
        dialect="cpu",
        precision="int8",
        on_progress=lambda done, total: calls.append((done, total)),
    )

    total = calls[0][1]
    assert calls == [(done + 1, total) for done in range(total)]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_weights_pass_through_memory_one_at_a_time(precision, checkpoint, tmp_path: Path, monkeypatch):
    """The peak is a few times the largest tensor, far below the model."""
    source = tmp_path / "source"
    large = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 24, "head_dim": 64}
    monkeypatch.setitem(checkpoints.KINDS, "llama-large", checkpoints.Kind(checkpoints.LlamaConfig, large))
    write_checkpoint("llama-large", source)
    largest_bytes = 512 * 256 * 4
    tracemalloc.start()
    try:
        build_decoder(source, tmp_path, dialect="cpu", precision=precision)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 10 * largest_bytes
    assert (source / "model.safetensors").stat().st_size > 5 * peak_bytes


@pytest.mark.parametrize(("kind", "precision"), [("phi3", "fp32"), ("qwen3-tied", "int8"), ("llama-bf16", "int8")])
def test_a_large_tensor_passes_in_pieces(kind, precision, graph, checkpoint, tmp_path: Path, monkeypatch):
    """Matrices of many pieces of a few rows, the last one short, give the very bytes of matrices in one piece."""
    folder, _ = graph(kind, "cpu", precision)
    monkeypatch.setattr("fathom_export.decoder.checkpoint.BLOCK_VALUES", 64 * 7)

    build_decoder(checkpoint(kind), tmp_path, dialect="cpu", precision=precision)

    assert (tmp_path / "model.onnx.data").read_bytes() == (folder / "model.onnx.data").read_bytes()
    assert (tmp_path / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


def test_a_tensor_larger_than_a_piece_does_not_pass_through_memory_whole(checkpoint, tmp_path: Path, monkeypatch):
    """With an embedding far above a piece's size, the peak stays below that one tensor."""
    monkeypatch.setattr("fathom_export.decoder.checkpoint.BLOCK_VALUES", 64 * 1024)
    large = {"vocab_size": 50_000, "tie_word_embeddings": True, "num_hidden_layers": 1}
    monkeypatch.setitem(checkpoints.KINDS, "llama-vocabulary", checkpoints.Kind(checkpoints.LlamaConfig, large))
    source = write_checkpoint("llama-vocabulary", tmp_path / "source")
    embedding_bytes = 50_000 * 64 * 4
    tracemalloc.start()
    try:
        build_decoder(source, tmp_path, dialect="cpu", precision="fp32")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < embedding_bytes / 2


def test_a_disk_that_fills_leaves_nothing_behind(checkpoint, tmp_path: Path):
    """If the weights cannot be written whole, no file of the graph stays."""
    limit_bytes = 100_000
    script = (
        "import resource, signal, sys, pathlib\n"
        "from fathom_export.decoder import build_decoder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}))\n"
        "try:\n"
        "    build_decoder(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), dialect='cpu', precision='fp32')\n"
        "except OSError as error:\n"
        "    print(f'refused: {error}')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, str(checkpoint("llama-untied")), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith("refused: ")
    assert list(tmp_path.iterdir()) == []


def test_building_needs_neither_torch_nor_transformers(checkpoint, tmp_path: Path):
    """A build in a fresh process imports none of them, and importing the package is light."""
    script = (
        "import sys, pathlib\n"
        "from fathom_export.decoder import build_decoder\n"
        "assert not {'numpy', 'onnx', 'onnx_ir'} & set(sys.modules), 'heavy at import'\n"
        "build_decoder(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), dialect='cpu', precision='int8')\n"
        "assert not {'torch', 'transformers', 'safetensors', 'onnxruntime'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", script, str(checkpoint("llama-bf16")), str(tmp_path)], check=True)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.native.onnx", "model.onnx", "model.onnx.data"]


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [3, 7, 3]}, {"eos_token_id": 2}, (3, 7)),
        ({"eos_token_id": 5}, {}, (5,)),
        ({}, {"eos_token_id": 2}, (2,)),
        (None, {"eos_token_id": [2, 4]}, (2, 4)),
        (None, {}, ()),
    ],
)
def test_eos_token_ids_are_those_of_the_generation_config_first(generation, config, expected, tmp_path: Path):
    """generation_config.json counts before config.json; one id or several; each once."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))

    assert eos_token_ids(tmp_path) == expected
