"""The graphs of each precision: operators, types, closeness to float32, and answers through the engine."""

import copy
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from tests.export.decoder.checkpoints import reference
from tests.export.decoder.decoder_runner import DecoderRunner
from tests.export.quantise.conftest import cosines, logits

from fathom_export.decoder import build_decoder
from fathom_export.errors import CheckpointError
from fathom_export.quantise.fp8 import column_scales, rounded
from fathom_export.quantise.int4 import dequantised, round_to_nearest
from fathom_export.spec.quantisation import Quantisation

KINDS = ["llama-untied", "llama-biases", "llama-odd-sizes", "qwen3-tied"]
PRECISIONS = {
    "int4 32": ("cpu", "int4", {}),
    "int4 128": ("cpu", "int4", {"block_size": 128}),
    "int4 hqq": ("cpu", "int4", {"int4_method": "hqq"}),
    "fp16": ("portable", "fp16", {}),
    "fp8 max": ("portable", "fp8", {}),
    "fp8 percentile": ("portable", "fp8", {"calibration_method": "percentile"}),
    "fp8 mse": ("portable", "fp8", {"calibration_method": "mse"}),
}
TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 320, 60)]


def load(folder: Path) -> onnx.ModelProto:
    """A graph with its weights."""
    return onnx.load(folder / "model.onnx")


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of initializers, inputs and outputs by name."""
    values = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer} | values


@pytest.mark.parametrize("kind", KINDS)
def test_fp16_is_all_but_float32(built, kind: str) -> None:
    """Every position's logits have a cosine of at least 0.9999 to the float32 graph's."""
    found, reference = (logits(built(kind, "portable", precision), TOKENS) for precision in ("fp16", "fp32"))
    assert found.dtype == np.float32
    assert cosines(found, reference).min() >= 0.9999


@pytest.mark.parametrize("block_size", [32, 128])
@pytest.mark.parametrize("kind", KINDS)
def test_int4_of_weights_that_fit_costs_only_the_activations_rounding(
    kind: str, block_size: int, source, tmp_path: Path
) -> None:
    """A checkpoint of the format's own numbers is stored as it is; its logits differ by int8 activations alone."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_bytes((source(kind) / "config.json").read_bytes())
    tensors = load_file(source(kind) / "model.safetensors")
    for name, matrix in tensors.items():
        if name.endswith("_proj.weight"):
            tensors[name] = dequantised(round_to_nearest(matrix, block_size, 4), matrix.shape[1], 4)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = []
    for precision in ("fp32", "int4"):
        out = tmp_path / precision
        out.mkdir()
        settings = Quantisation(block_size=block_size) if precision == "int4" else None
        form = build_decoder(folder, out, dialect="cpu", precision=precision, quantisation=settings, max_context=128)
        found.append(logits((out, form), TOKENS))
    assert cosines(*found).mean() >= 0.995


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
@pytest.mark.parametrize("kind", ["llama-untied", "llama-biases", "qwen3-tied"])
def test_fp8_arithmetic_is_what_it_says(kind: str, method: str, built, source) -> None:
    """The graph agrees with transformers once each layer's weights and inputs are rounded there, by the same scales.

    Not closer than 0.99: what float16 moves across a rounding boundary of fp8 is off by a sixteenth.
    """
    folder, form = built(kind, "portable", "fp8", calibration_method=method)
    scales = json.loads((folder / "quantisation.json").read_text())["fp8"]["activation_scales"]
    model = copy.deepcopy(reference(source(kind)))
    inputs = {
        "q_proj": "attention_norm", "k_proj": "attention_norm", "v_proj": "attention_norm", "o_proj": "attention",
        "gate_proj": "mlp_norm", "up_proj": "mlp_norm", "down_proj": "mlp.gated",
    }  # fmt: skip
    with torch.no_grad():
        for name, module in model.named_modules():
            layer = name.rpartition(".")[2]
            if layer not in inputs:
                continue
            tensor = f"layer.{name.split('.')[2]}.{inputs[layer]}"
            scale = np.float32(scales.get(tensor) or scales[f"{tensor}.logit_rows"])  # the last layer's
            columns = module.weight.numpy().T
            module.weight.copy_(torch.from_numpy(rounded(columns, column_scales(columns)).T.copy()))
            module.register_forward_pre_hook(
                lambda _, given, scale=scale: (torch.from_numpy(rounded(given[0].numpy(), scale)),)
            )
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    assert cosines(logits((folder, form), TOKENS), expected).mean() >= 0.99


@pytest.mark.parametrize("form", PRECISIONS)
def test_the_trained_model_says_the_same(built, held_out, form: str) -> None:
    """On held-out text the example's most likely tokens agree with float32's in nine of ten places."""
    dialect, precision, settings = PRECISIONS[form]
    reference = logits(built("real", dialect, "fp32"), held_out)
    found = logits(built("real", dialect, precision, **settings), held_out)
    assert (found.argmax(axis=-1) == reference.argmax(axis=-1)).mean() >= 0.9


@pytest.mark.parametrize("block_size", [32, 128])
def test_int4_layers_are_blocks_and_a_tied_head_shares_the_embedding(built, block_size: int) -> None:
    """Projections are MatMulNBits of 4 bits over int8 activations, the head of 8; one tensor is embedding and head."""
    folder, _ = built("qwen3-tied", "cpu", "int4", block_size=block_size)
    model = load(folder)
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    settings = [{item.name: item.i for item in node.attribute} for node in products]
    assert Counter(item["bits"] for item in settings) == {4: 3 * 5, 8: 1}
    assert {(item["accuracy_level"], item["block_size"]) for item in settings} == {(4, block_size)}
    assert not [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    gathered = next(node for node in model.graph.node if node.name == "embedding.codes")
    assert gathered.input[0] == products[-1].input[1]
    assert [name for name, kind in types(model).items() if kind == TensorProto.UINT8 and "lm_head" in name] == []


def test_fp16_has_float32_only_around_norms_and_at_the_logits(built) -> None:
    """Weights, cache and tables are float16; norms' weights float32; the softmax is asked for in float32."""
    folder, form = built("qwen3-tied", "portable", "fp16")
    model = load(folder)
    assert form.kv_dtype == "float16"
    for name, kind in types(model).items():
        if name == "logits" or name.endswith("norm.weight"):
            assert kind == TensorProto.FLOAT, name
        else:
            assert kind in (TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL), name
    producers = {output: node for node in model.graph.node for output in node.output}
    norms = [node for node in model.graph.node if node.op_type == "RMSNormalization"]
    assert len(norms) == 3 * 4 + 1
    for norm in norms:
        assert producers[norm.input[0]].op_type == "Cast"
        (user,) = [node for node in model.graph.node if norm.output[0] in node.input]
        assert user.op_type == "Cast"
    attentions = [node for node in model.graph.node if node.op_type == "Attention"]
    assert {item.i for node in attentions for item in node.attribute if item.name == "softmax_precision"} == {1}


def test_fp8_is_what_tensorrt_recognises(built) -> None:
    """A layer multiplies a dequantised tensor of one scale by stored fp8 of a scale a column; zero points are 0."""
    folder, form = built("llama-biases", "portable", "fp8")
    model = load(folder)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert len(products) == 7 * 3
    for product in products:
        activations, weights = (producers[name] for name in product.input)
        assert activations.op_type == weights.op_type == "DequantizeLinear"
        quantised = producers[activations.input[0]]
        assert quantised.op_type == "QuantizeLinear"
        assert list(quantised.input[1:]) == list(activations.input[1:])
        scale, zero = (tensors[name] for name in activations.input[1:])
        assert (scale.shape, scale.dtype) == ((), np.float16)
        matrix, scales, zeros = (tensors[name] for name in weights.input)
        assert str(matrix.dtype) == "float8_e4m3fn"
        assert {item.name: item.i for item in weights.attribute} == {"axis": 1}
        assert (scales.shape, scales.dtype) == ((matrix.shape[1],), np.float16)
        assert str(zero.dtype) == str(zeros.dtype) == "float8_e4m3fn"
        assert np.count_nonzero(zero.astype(np.float32)) == np.count_nonzero(zeros.astype(np.float32)) == 0
        largest = np.abs(matrix.astype(np.float32)).max(axis=0)
        assert ((largest > 384) & (largest <= 448)).all()  # every column uses the whole range
    head = next(node for node in model.graph.node if node.op_type == "Gemm")
    assert tensors[head.input[1]].dtype == np.float16
    assert form.kv_dtype == "float16"


@pytest.mark.parametrize("form", ["int4 32", "int4 128", "int4 hqq"])
def test_int4_rows_are_close_alone_and_among_six(built, form: str) -> None:
    """With blocks of 32 a row's logits are the same bits alone and in a batch.

    With blocks of 128 they are only close: ONNX Runtime multiplies one row by another kernel than several.
    """
    _, precision, settings = PRECISIONS[form]
    folder, description = built("qwen3-tied", "cpu", precision, **settings)
    prompts = [[int(t) for t in np.random.default_rng(n).integers(0, 320, n + 3)] for n in range(6)]
    together = DecoderRunner(folder, description, rows=6)
    alone = DecoderRunner(folder, description, rows=6)
    for row, tokens in enumerate(prompts):
        together.prefill(tokens, 16, row)
        alone.prefill(tokens, 16, row)
    for step in range(4):
        new = [[tokens[step % len(tokens)]] for tokens in prompts]
        found = together.step(new, [[0]] * 6)
        single = np.stack([alone.step([token], [[0]], row)[0] for row, token in enumerate(new)])
        if settings.get("block_size") == 128:
            assert cosines(found, single).min() > 0.999
        else:
            np.testing.assert_array_equal(found, single)


@pytest.mark.parametrize("form", ["int4 32", "fp16", "fp8 max"])
def test_greedy_answers_come_through_the_engine(built, form: str, source, monkeypatch) -> None:
    """The engine's own runner prefills in chunks and decodes; its tokens are those of whole prompts in the graph."""
    from dataclasses import replace

    from fathom_server.engine.runner.onnx import OnnxRunner
    from fathom_server.engine.settings import EngineLimits, EngineSettings

    dialect, precision, settings = PRECISIONS[form]
    folder, description = built("qwen3-tied", dialect, precision, **settings)
    limits = replace(EngineLimits(), max_batch=2, max_context=128, prefill_chunk=4)
    entries = {"session.disable_quant_qdq": "1"} if precision == "fp8" else None
    runner = OnnxRunner(folder, EngineSettings(description, limits), entries)
    prompt = [int(token) for token in np.random.default_rng(5).integers(0, 320, 9)]
    for first in range(0, len(prompt), 4):
        last = runner.prefill(0, first, np.array(prompt[first : first + 4]))
    tokens = [int(last[0].argmax())]
    agreed = 0
    for _ in range(15):
        whole = logits((folder, description), prompt + tokens[:-1])[-1]
        agreed += int(whole.argmax()) == tokens[-1]
        last = runner.decode(np.array([len(prompt) + len(tokens) - 1], np.int32), np.array(tokens[-1:]))
        tokens.append(int(last[0].argmax()))
    assert agreed >= 14


def test_a_weight_beyond_float16_is_refused(source, tmp_path: Path) -> None:
    """It is named with its magnitude, and nothing is left behind."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_bytes((source("llama-untied") / "config.json").read_bytes())
    tensors = load_file(source("llama-untied") / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"] * 1e6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CheckpointError, match=r"up_proj.weight holds .* float16's largest 65504"):
        build_decoder(folder, out, dialect="portable", precision="fp16")
    assert not list(out.iterdir())
