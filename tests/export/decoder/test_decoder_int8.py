"""The int8 graph: close to float32, and never dependent on a request's neighbours."""

import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tests.export.decoder.checkpoints import reference
from tests.export.decoder.decoder_runner import DecoderRunner

from fathom_export.decoder import build_decoder


def cosines(some: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Cosine similarity of each row to its counterpart."""
    return (some * others).sum(axis=-1) / (np.linalg.norm(some, axis=-1) * np.linalg.norm(others, axis=-1))


def rounded_rows(values: torch.Tensor) -> torch.Tensor:
    """Each row rounded to the 255 steps between its largest magnitude and its negative."""
    scales = values.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / 127
    return (values / scales).round() * scales


def has_matrix(module: torch.nn.Module) -> bool:
    """Whether the module's weight is one that the graph stores in int8."""
    return isinstance(module, torch.nn.Linear | torch.nn.Embedding)


INT8_KINDS = ["llama-untied", "llama-tied", "llama-biases", "llama-odd-sizes", "mistral", "qwen2", "qwen3-tied"]
INT8_KINDS += ["mistral-windowed", "phi3", "smollm3", "olmo2", "granite", "gemma2", "gemma3-text"]


@pytest.mark.parametrize("kind", INT8_KINDS)
def test_int8_logits_are_close_to_float32(kind, graph, prompts):
    """Over the positions of a prompt, the mean cosine to the float32 graph's logits is at least 0.99."""
    tokens = prompts[5] * 3
    logits = {}
    for precision in ("fp32", "int8"):
        folder, description = graph(kind, "cpu", precision)
        logits[precision] = DecoderRunner(folder, description).step([tokens], [range(len(tokens))])[0]

    assert cosines(logits["int8"], logits["fp32"]).mean() >= 0.99


@pytest.mark.parametrize("kind", INT8_KINDS)
def test_int8_arithmetic_is_what_it_says(kind, graph, checkpoint, prompts):
    """The graph agrees with transformers once every weight row and every linear layer's input row is rounded there."""
    tokens = prompts[5] * 3
    model = copy.deepcopy(reference(checkpoint(kind)))
    with torch.no_grad():
        matrices = {id(module.weight): module.weight for module in model.modules() if has_matrix(module)}
        for weight in matrices.values():
            weight.copy_(rounded_rows(weight))
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(lambda _, inputs: (rounded_rows(inputs[0]),))
        expected = model(torch.tensor([tokens])).logits[0].numpy()

    folder, description = graph(kind, "cpu", "int8")
    logits = DecoderRunner(folder, description).step([tokens], [range(len(tokens))])[0]

    assert cosines(logits, expected).min() >= 0.999


@pytest.mark.parametrize("disabled", ["0", "1"])
@pytest.mark.parametrize("kind", INT8_KINDS)
def test_a_row_gives_the_same_bits_alone_and_among_six(kind, disabled, graph, prompts, monkeypatch):
    """Sixteen one-token steps of ragged rows: the logits of each row are bit-identical to those of the row alone."""
    monkeypatch.setenv("ORT_GQA_DISABLE_FLASH_ATTENTION", disabled)
    folder, description = graph(kind, "cpu", "int8")
    together = DecoderRunner(folder, description, rows=len(prompts))
    alone = DecoderRunner(folder, description, rows=len(prompts))
    for row, tokens in enumerate(prompts):
        np.testing.assert_array_equal(together.prefill(tokens, 16, row), alone.prefill(tokens, 16, row))
    for step in range(16):
        new = [[tokens[step % len(tokens)]] for tokens in prompts]
        logits = together.step(new, [[0]] * len(prompts))
        for row, token in enumerate(new):
            np.testing.assert_array_equal(logits[row], alone.step([token], [[0]], row)[0])


@pytest.mark.parametrize("kind", ["llama-biases", "qwen3-tied"])
def test_several_prompts_without_a_past_give_the_same_bits_together(kind, graph, prompts):
    """First chunks of six prompts in one batch: the logits of each are bit-identical to those of the prompt alone."""
    folder, description = graph(kind, "cpu", "int8")
    batch = [(tokens * 20)[:20] for tokens in prompts]

    together = DecoderRunner(folder, description, rows=len(batch)).step(batch, [range(20)] * len(batch))

    alone = DecoderRunner(folder, description, rows=len(batch))
    for row, tokens in enumerate(batch):
        np.testing.assert_array_equal(together[row], alone.step([tokens], [range(20)], row)[0])


def test_no_logit_position_gives_no_logits(graph, prompts):
    """K = 0 answers an empty tensor with all its dimensions."""
    folder, description = graph("qwen3-tied", "cpu", "int8")

    logits = DecoderRunner(folder, description, rows=2).step([prompts[2], prompts[2]], [[], []])

    assert logits.shape == (2, 0, description.vocabulary)


def test_rows_and_columns_of_zeros_stay_zeros(checkpoint, tmp_path: Path):
    """A token whose embedding is all zeros, and outputs whose weights are, give finite logits like float32's."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "generation_config.json"):
        (source / name).write_bytes((checkpoint("qwen3-tied") / name).read_bytes())
    tensors = load_file(checkpoint("qwen3-tied") / "model.safetensors")
    tensors["model.embed_tokens.weight"][7] = 0
    tensors["model.layers.1.mlp.up_proj.weight"][5] = 0
    tensors["model.layers.2.mlp.up_proj.weight"][:] = 0
    save_file(tensors, source / "model.safetensors")

    logits = {}
    for precision in ("fp32", "int8"):
        folder = tmp_path / precision
        folder.mkdir()
        description = build_decoder(source, folder, dialect="cpu", precision=precision)
        logits[precision] = DecoderRunner(folder, description).step([[7, 7, 3, 7]], [range(4)])[0]

    assert np.isfinite(logits["int8"]).all()
    assert not logits["int8"][0].any()
    np.testing.assert_array_equal(logits["fp32"][0], logits["int8"][0])
    np.testing.assert_allclose(logits["int8"][2], logits["fp32"][2], atol=0.05 * np.abs(logits["fp32"][2]).max())


def test_every_matrix_is_stored_in_int8(graph):
    """Embedding, linear layers and LM head are int8; what is left in float32 are vectors and the rotary tables."""
    folder, description = graph("llama-biases", "cpu", "int8")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    matrices = {tensor.name: tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2}

    in_float32 = {name for name, kind in matrices.items() if kind != onnx.TensorProto.INT8}

    assert in_float32 == {"rotary.cosines", "rotary.sines"}
    assert len(matrices) - len(in_float32) == 2 + 5 * description.layers
