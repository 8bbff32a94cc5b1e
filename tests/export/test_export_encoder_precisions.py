"""Encoders in fp16 and fp8: what the graphs are made of, how close they stay, and what their cards say."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from tests.export.encoder_checkpoints import FAMILIES, WORDS, write_checkpoint
from tests.export.test_export_repository import Quiet

from fathom_export.encoder import build_encoder
from fathom_export.encoder.checked_graph import in_float16
from fathom_export.errors import SpecError
from fathom_export.export_model import export_model
from fathom_export.onnxruntime_options import WEIGHTS_FOLDER_OPTION
from fathom_export.quality.card import CARD_FILE
from fathom_export.spec import ClassifySpec, EmbedSpec, EncoderSpec, RerankSpec
from fathom_export.spec.quantisation import EncoderQuantisation

HEAD = "ForSequenceClassification"
PRECISIONS = ("fp16", "fp8")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text like the checkpoints' vocabulary, a text a line."""
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text("\n".join([*WORDS, *(f"{one} and {other}" for one in WORDS for other in WORDS)]))
    return path


def quantisation(precision: str, text: Path, **settings: Any) -> EncoderQuantisation:
    """Calibration on the text where the precision needs one."""
    return EncoderQuantisation(calibration_text=str(text), **settings) if precision == "fp8" else EncoderQuantisation()


def run(graph: Path, output: str, inputs: dict[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
    """The graph's output on CPU."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(graph / "model.onnx", options, providers=["CPUExecutionProvider"])
    result: npt.NDArray[np.float32] = session.run([output], inputs)[0]
    return result


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_architecture_is_lowered(family: str, precision: str, text: Path, tmp_path: Path) -> None:
    """Products are in float16 or fp8, norms and what follows the last product in float32; embeddings stay close."""
    source = write_checkpoint(tmp_path / "source", family)
    folders = {}
    for name in ("fp32", precision):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        build_encoder(source, folders[name], precision=name, quantisation=quantisation(name, text))  # type: ignore[arg-type]
    model = onnx.load(folders[precision] / "model.onnx")
    onnx.checker.check_model(model, full_check=precision == "fp16")
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds |= {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    for node in model.graph.node:
        if node.op_type == "MatMul":
            assert {kinds[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}, node.name
        if node.op_type == "LayerNormalization":
            assert {kinds[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT}, node.name
    matrices = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT8E4M3FN]
    assert bool([tensor for tensor in matrices if len(tensor.dims) == 2]) == (precision == "fp8")
    assert kinds["sentence_embedding"] == TensorProto.FLOAT
    chance = np.random.default_rng(0)
    inputs = {"input_ids": chance.integers(6, 60, (4, 40)), "attention_mask": np.ones((4, 40), np.int64)}
    inputs["attention_mask"][1, 9:] = 0
    one, other = (run(folder, "sentence_embedding", inputs) for folder in folders.values())
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosines.min() >= (0.999 if precision == "fp16" else 0.95)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_the_check_widens_no_table(family: str, tmp_path: Path) -> None:
    """As it is checked, a graph says what it says, and its tables of embeddings stay as they are in memory."""
    build_encoder(write_checkpoint(tmp_path / "source", family), tmp_path, precision="fp16")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(tmp_path / "run" / "model.onnx")
    options.add_session_config_entry(WEIGHTS_FOLDER_OPTION, str(tmp_path))
    (tmp_path / "run").mkdir()
    checked = onnxruntime.InferenceSession(in_float16(tmp_path / "model.onnx"), options)
    inputs = {"input_ids": np.arange(6, 46).reshape(1, 40), "attention_mask": np.ones((1, 40), np.int64)}
    (said,) = checked.run(["sentence_embedding"], inputs)
    assert np.allclose(said, run(tmp_path, "sentence_embedding", inputs), atol=5e-3)
    model = onnx.load(
        tmp_path / "run" / "model.onnx", load_external_data=False
    )  # with the casts that ONNX Runtime has put in
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    tables = [
        node.input[0] for node in model.graph.node if node.op_type == "Gather" and "/float16_rows" in node.output[0]
    ]
    assert tables
    assert {kinds[name] for name in tables} == {TensorProto.FLOAT16}


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("task", ["embed", "rerank", "classify"])
def test_each_tasks_card_has_figures_and_layers(
    task: str, family: str, precision: str, text: Path, tmp_path: Path
) -> None:
    """A card compares embeddings or scores with the source and with fp32, and finds the layers' own errors."""
    head = {} if task == "embed" else {"head": HEAD, "num_labels": 1 if task == "rerank" else 3}
    if task == "classify":
        head["id2label"] = {0: "glad", 1: "sad", 2: "so-so"}
    source = write_checkpoint(tmp_path / "source", family, **head)
    kind: type[EncoderSpec] = {"embed": EmbedSpec, "rerank": RerankSpec, "classify": ClassifySpec}[task]
    settings = quantisation(precision, text)
    spec = kind("model", str(source), precision=precision, quantisation=settings)  # type: ignore[arg-type]
    export_model(spec, Path(), tmp_path / "repository", Quiet(), accept_quality="random weights")
    version = tmp_path / "repository" / "model_encoder" / "1"
    card = json.loads((version / CARD_FILE).read_text())
    comparisons = card["embeddings" if task == "embed" else "scores"]
    assert [each["reference"] for each in comparisons] == ["the source model (torch, fp32)", "our fp32 graph"]
    for each in comparisons:
        assert each["min_cosine"] > 0.9 if task == "embed" else each["max_error"] < 0.3
    layers = card["layers"]
    assert len(layers) >= 2 * (3 if family == "modernbert" else 2)
    assert all(0 <= layer["relative_l2"] < 0.5 for layer in layers), layers
    assert max(layer["relative_l2"] for layer in layers) > 0
    passport = json.loads((version / "passport.json").read_text())
    assert passport["precision"] == precision
    if precision == "fp8":
        assert passport["quantisation"]["calibration"]["text"] == "user"


def test_layers_that_hurt_stay_in_float16_within_the_budget(text: Path, tmp_path: Path) -> None:
    """With a budget the most harmful layers keep float16 weights; the report says which and how much each hurts."""
    source = write_checkpoint(tmp_path / "source", "bert")
    graph = tmp_path / "graph"
    graph.mkdir()
    build_encoder(source, graph, precision="fp8", quantisation=quantisation("fp8", text, fp8_skip_budget=0.3))
    report = json.loads((graph / "quantisation.json").read_text())["fp8"]
    harm = report["harm_relative_error"]
    assert len(harm) == 2 * 6
    assert all(value > 0 for value in harm.values())
    assert 0 < report["share_in_fp16"] <= 0.3
    model = onnx.load(graph / "model.onnx")
    stored = Counter(
        tensor.data_type
        for tensor in model.graph.initializer
        if len(tensor.dims) == 2 and "embeddings" not in tensor.name
    )
    assert stored[TensorProto.FLOAT8E4M3FN] == len(harm) - len(report["layers_in_fp16"])


def test_fp8_without_text_and_settings_without_fp8_are_refused(tmp_path: Path) -> None:
    """An encoder writes no text of its own to be calibrated on; a text that nobody reads is a mistake."""
    with pytest.raises(SpecError, match=r"fp8 of an encoder needs quantisation\.calibration_text"):
        EmbedSpec("model", "source", precision="fp8")
    with pytest.raises(SpecError, match=r"calibration_text is 'text', but it goes with precision fp8"):
        EmbedSpec("model", "source", quantisation=EncoderQuantisation(calibration_text="text"))
    (tmp_path / "short.txt").write_text("cat\n")
    source = write_checkpoint(tmp_path / "source", "bert")
    for file, words in (("short.txt", "holds 3 tokens; give it at least 32"), ("none.txt", "cannot be read")):
        with pytest.raises(SpecError, match=words):
            build_encoder(source, tmp_path, precision="fp8", quantisation=quantisation("fp8", tmp_path / file))
