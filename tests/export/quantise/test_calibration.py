"""What a model is calibrated on, what is found, and what stays in fp16."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from fathom_export.decoder import build_decoder
from fathom_export.errors import SpecError
from fathom_export.quantise.calibration import choose_skipped, gather_statistics, sensitivity
from fathom_export.quantise.calibration_text import TOKENS, read_text, write_text
from fathom_export.quantise.float32_graph import float32_graph
from fathom_export.spec.quantisation import Quantisation


def report_of(folder: Path) -> dict:
    """What an export says of its quantisation."""
    return json.loads((folder / "quantisation.json").read_text())


def test_without_a_text_the_model_writes_its_own(built, source, tmp_path: Path) -> None:
    """The report says so, its length is bounded, and writing again gives the same tokens."""
    folder, _ = built("llama-untied", "portable", "fp8")
    calibration = report_of(folder)["calibration"]
    assert calibration["text"] == "generated"
    assert 0 < calibration["tokens"] <= TOKENS
    with float32_graph(source("llama-untied"), tmp_path, 64) as graph:
        first, second, other = (write_text(graph, None, 24, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.sequences, second.sequences)
    assert not np.array_equal(first.sequences, other.sequences)
    assert not list(tmp_path.iterdir())


def test_the_models_own_text_is_likelier_to_it_than_noise(source, tmp_path: Path) -> None:
    """The mean log-probability of what it wrote is above that of random tokens."""
    with float32_graph(source("llama-untied"), tmp_path, 64) as graph:
        (written,) = write_text(graph, None, 48).sequences[:1]
        noise = np.random.default_rng(0).integers(0, graph.vocabulary, 48)
        likelihood = []
        for ids in (written, noise):
            values = graph.logits(ids).astype(np.float64)
            values -= np.log(np.exp(values - values.max(-1, keepdims=True)).sum(-1, keepdims=True)) + values.max(
                -1, keepdims=True
            )
            likelihood.append(values[np.arange(47), ids[1:]].mean())
    assert likelihood[0] > likelihood[1] + 1


def test_a_users_text_is_read_by_the_models_tokenizer(tiny_llm: Path, tmp_path: Path) -> None:
    """The report says that it was the user's, and how many of its tokens were looked at."""
    text = tmp_path / "text.txt"
    text.write_text("how do I reset my password, the cat sat on the mat. " * 30)
    out = tmp_path / "out"
    out.mkdir()
    settings = Quantisation(calibration_text=str(text), calibration_method="mse")
    build_decoder(tiny_llm, out, dialect="portable", precision="fp8", quantisation=settings)
    report = report_of(out)
    assert report["calibration"]["text"] == "user"
    assert report["calibration"]["tokens"] >= 32
    assert set(out.iterdir()) == {out / name for name in ("model.onnx", "model.onnx.data", "quantisation.json")}


@pytest.mark.parametrize(
    ("content", "part"), [(None, "cannot be read"), (b"", "holds 0 tokens"), (b"\xff\xfe\x00", "is not UTF-8")]
)
def test_a_text_that_cannot_be_used_is_refused(content, part: str, tiny_llm: Path, tmp_path: Path) -> None:
    """The file is named with what is wrong, and nothing is left in the destination."""
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(SpecError, match=part) as caught:
        build_decoder(
            tiny_llm, out, dialect="portable", precision="fp8", quantisation=Quantisation(calibration_text=str(text))
        )
    assert str(text) in str(caught.value)
    assert not list(out.iterdir())


def test_a_text_cut_inside_a_character_is_read_up_to_it(tiny_llm: Path, tmp_path: Path) -> None:
    """A last character of which the file has only a part is left out."""
    text = tmp_path / "text.txt"
    text.write_bytes(("ä" * 60).encode() + "ä".encode()[:1])
    assert read_text(text, tiny_llm, 16).count >= 32


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.5, 1.0])
def test_skipped_layers_stay_within_the_budget(source, tmp_path: Path, budget: float) -> None:
    """The share of weights left out is at most the budget; with all of it, every layer that does harm is out."""
    with float32_graph(source("qwen3-tied"), tmp_path, 64) as graph:
        tokens = write_text(graph, None, 32)
        scales = {
            name: np.float32(seen.largest / 448) for name, seen in gather_statistics(graph, tokens.sequences).items()
        }
        harm = sensitivity(graph, tokens, scales)
        chosen = choose_skipped(graph.layers, harm, budget)
        weights = {layer.name: layer.weights for layer in graph.layers}
    assert set(harm) == set(weights)
    assert len(harm) == 7 * 3
    share = sum(weights[name] for name in chosen.names) / sum(weights.values())
    assert share == pytest.approx(chosen.share)
    assert share <= budget
    if budget == 1.0:
        assert set(chosen.names) == {name for name, nats in harm.items() if nats > 0}


def test_a_skipped_layer_is_fp16_in_the_graph(built) -> None:
    """The report's layers have no Q/DQ pair and float16 weights; all others have one."""
    folder, _ = built("qwen3-tied", "portable", "fp8", fp8_skip_budget=0.3)
    skipped = set(report_of(folder)["fp8"]["layers_in_fp16"])
    assert skipped
    model = onnx.load(folder / "model.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMul":
            assert (kinds.get(node.input[1]) == onnx.TensorProto.FLOAT16) == (node.name in skipped), node.name


def test_the_passport_says_what_a_model_was_calibrated_on(tiny_llm: Path, tmp_path: Path) -> None:
    """A whole fp8 export: its passport holds the report, and the same export again is up to date."""
    from fathom_export.cli import main

    flags = ["--name", "m", "--task", "generate", "--precision", "fp8", "--dialect", "portable"]
    arguments = [str(tiny_llm), *flags, "--repository", str(tmp_path / "repository")]
    assert main(arguments) == 0
    (path,) = (tmp_path / "repository" / "m").glob("*/passport.json")
    passport = json.loads(path.read_text())
    assert passport["quantisation"]["calibration"]["text"] == "generated"
    assert passport["quantisation"] == report_of(path.parent)
    before = path.stat().st_mtime_ns
    assert main(arguments) == 0
    assert path.stat().st_mtime_ns == before
