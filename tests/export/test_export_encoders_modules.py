"""Folders of sentence-transformers are followed module by module, and what they ask for in vain is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.models import Dense, LayerNorm, Normalize, Pooling
from tests.export.encoder_checkpoints import write_checkpoint, write_sentence_model

from fathom_export.encoder import ClassifierModel, SentenceModel, build_encoder
from fathom_export.encoder.tokenizer import load_tokenizer
from fathom_export.encoder.torch_model import load_sentence_encoder
from fathom_export.errors import CheckpointError, ExportError, SourceError, UnsupportedArchitectureError

TEXTS = ["the cat sat on the mat", "Home", "how do I reset my PASSWORD on the account page, hello?"]
HEAD = "ForSequenceClassification"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare BERT."""
    return write_checkpoint(tmp_path_factory.mktemp("modules") / "plain", "bert")


def embed(source: Path, texts: list[str]) -> np.ndarray:
    """Embeddings that our module in torch, which is what gets exported, gives for a padded batch."""
    model = SentenceModel.load(source)
    rows = load_tokenizer(source, model.architecture).encode_batch(texts)
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    with torch.no_grad():
        result: np.ndarray = load_sentence_encoder(model, source)(ids, mask).numpy()
    return result


@pytest.mark.parametrize(
    "modes", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("max", "cls", "lasttoken")]
)
def test_every_pooling_is_that_of_sentence_transformers(plain: Path, tmp_path: Path, modes: Any) -> None:
    """Each pooling, and several joined, gives sentence-transformers' embeddings of a padded batch."""
    source = write_sentence_model(tmp_path / "model", plain, [Pooling(32, pooling_mode=modes)])
    reference = SentenceTransformer(str(source), device="cpu").encode(TEXTS)
    assert SentenceModel.load(source).dimension == reference.shape[1]
    np.testing.assert_allclose(embed(source, TEXTS), reference, atol=1e-5)


def test_layers_behind_the_pooling_are_exported(plain: Path, tmp_path: Path) -> None:
    """Dense layers with activation and shortcut, normalisations and a lowering tokenizer: the graph has them all."""
    torch.manual_seed(3)
    layers = [
        Pooling(32, pooling_mode=("mean", "max")),
        Dense(64, 48),
        Dense(48, 48, activation_function=torch.nn.GELU(), bias=False, use_residual=True),
        LayerNorm(48),
        Dense(48, 24, activation_function=torch.nn.Identity(), use_residual=True),
        Normalize(),
    ]
    source = write_sentence_model(tmp_path / "model", plain, layers)
    change(source / "sentence_bert_config.json", do_lower_case=True)
    reference = SentenceTransformer(str(source), device="cpu").encode(TEXTS)
    graph = tmp_path / "graph"
    graph.mkdir()
    built = build_encoder(source, graph, precision="fp32")
    model = built.form.model
    assert isinstance(model, SentenceModel)
    assert (model.dimension, model.architecture.lower_case, model.normalise) == (24, True, True)
    rows = load_tokenizer(source, model.architecture).encode_batch(TEXTS)
    session = onnxruntime.InferenceSession(graph / "model.onnx", providers=["CPUExecutionProvider"])
    for row, wanted in zip(rows, reference, strict=True):
        given = {"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)), np.int64)}
        np.testing.assert_allclose(session.run(None, given)[0][0], wanted, atol=1e-5)


def test_flags_of_older_folders_are_read(plain: Path, tmp_path: Path) -> None:
    """Poolings may be set by flags, in sentence-transformers' order."""
    source = write_sentence_model(tmp_path / "model", plain, [Pooling(32)])
    flags = {"word_embedding_dimension": 32, "pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}
    (source / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    assert SentenceModel.load(source).pooling == ("cls", "max")
    reference = SentenceTransformer(str(source), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(embed(source, TEXTS), reference, atol=1e-5)


def test_prompts_are_read_with_their_default(plain: Path, tmp_path: Path) -> None:
    """The folder's names are kept; ``query`` and ``document`` are as encode_query and encode_document have them."""
    source = write_sentence_model(tmp_path / "model", plain, [Pooling(32)])
    assert SentenceModel.load(source).default_prompt == ""
    change(
        source / "config_sentence_transformers.json",
        prompts={"q": "ask: ", "passage": "read: "},
        default_prompt_name="q",
    )
    model = SentenceModel.load(source)
    assert model.prompts == {"query": "", "document": "", "q": "ask: ", "passage": "read: "}
    assert model.default_prompt == "ask: "


@pytest.mark.parametrize(("activation", "wanted"), [("Sigmoid", "sigmoid"), ("Identity", "identity")])
def test_a_rerankers_activation_is_found_wherever_it_is_kept(tmp_path: Path, activation: str, wanted: str) -> None:
    """sentence-transformers 6, 4 and earlier ones each keep it in a place of their own; without any it is sigmoid."""
    plain = write_checkpoint(tmp_path / "plain", "bert", HEAD, num_labels=1)
    assert ClassifierModel.load_reranker(plain).activation == "sigmoid"
    name = f"torch.nn.modules.{'linear' if activation == 'Identity' else 'activation'}.{activation}"
    saved = tmp_path / "saved"
    CrossEncoder(str(plain), device="cpu", activation_fn=getattr(torch.nn, activation)()).save_pretrained(str(saved))
    assert ClassifierModel.load_reranker(saved).activation == wanted
    for place in ({"sentence_transformers": {"activation_fn": name}}, {"sbert_ce_default_activation_function": name}):
        folder = Path(shutil.copytree(plain, tmp_path / next(iter(place))))
        change(folder / "config.json", **place)
        assert ClassifierModel.load_reranker(folder).activation == wanted


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON object's file; None removes one."""
    content = {**(json.loads(path.read_text()) if path.exists() else {}), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


REFUSED_MODULES: list[tuple[str, dict[str, Any], type[ExportError], str]] = [
    (
        "config.json",
        {"model_type": "gpt2"},
        UnsupportedArchitectureError,
        "'gpt2'.*bert, camembert, distilbert.*xlm-rob",
    ),
    ("config.json", {"auto_map": {"AutoModel": "m.M"}}, UnsupportedArchitectureError, "auto_map: AutoModel.*never run"),
    ("config.json", {"position_embedding_type": "relative_key"}, UnsupportedArchitectureError, "relative_key"),
    ("config.json", {"vocab_size": None}, CheckpointError, "vocab_size"),
    ("config.json", {"max_position_embeddings": -5}, CheckpointError, "-5 positions"),
    (
        "1_Pooling/config.json",
        {"pooling_mode": "best"},
        UnsupportedArchitectureError,
        "pooling best; supported: cls, max",
    ),
    ("2_Dense/config.json", {"activation_function": "my.Mish"}, UnsupportedArchitectureError, "'my.Mish'.*Tanh"),
    ("2_Dense/config.json", {"activation_function": "torch.nn.Mish"}, UnsupportedArchitectureError, "Mish.*Identity"),
    ("2_Dense/config.json", {"in_features": 31}, CheckpointError, "takes 31 numbers, but 32 come"),
    ("2_Dense/config.json", {"in_features": None}, SourceError, "2_Dense.*in_features"),
    (
        "2_Dense/config.json",
        {"module_input_name": "tokens"},
        UnsupportedArchitectureError,
        "module_input_name is 'tokens'",
    ),
    ("config_sentence_transformers.json", {"default_prompt_name": "x"}, SourceError, "default_prompt_name is 'x'"),
    ("config_sentence_transformers.json", {"prompts": ["x"]}, SourceError, "prompts is"),
]


@pytest.fixture(scope="module")
def dense(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence model with one dense layer."""
    return write_sentence_model(tmp_path_factory.mktemp("dense") / "model", plain, [Pooling(32), Dense(32, 16)])


@pytest.fixture
def spoiled(dense: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(dense, tmp_path / "spoiled"))


@pytest.mark.parametrize(("file", "values", "error", "message"), REFUSED_MODULES)
def test_what_cannot_be_exported_is_named(
    spoiled: Path, tmp_path: Path, file: str, values: dict[str, Any], error: type[ExportError], message: str
) -> None:
    """Each thing that would change embeddings silently is refused with its file, its value and what there is."""
    change(spoiled / file, **values)
    with pytest.raises(error, match=f"(?s){message}"):
        build_encoder(spoiled, tmp_path, precision="fp32")


def test_modules_of_others_and_elsewhere_are_refused(spoiled: Path, tmp_path: Path) -> None:
    """A module that is the source's own code, one that is unknown, and one outside of the folder are refused."""
    modules = json.loads((spoiled / "modules.json").read_text())
    for changes, error, message in (
        ({"type": "custom_st.Transformer"}, UnsupportedArchitectureError, "custom_st.Transformer.*never run"),
        ({"type": "sentence_transformers.models.CNN"}, UnsupportedArchitectureError, "CNN; supported: Transformer"),
        ({"path": "../../elsewhere"}, SourceError, "'../../elsewhere'.*outside"),
    ):
        (spoiled / "modules.json").write_text(json.dumps([*modules[:2], {**modules[2], **changes}]))
        with pytest.raises(error, match=message):
            build_encoder(spoiled, tmp_path, precision="fp32")


def test_weights_that_are_missing_are_named(spoiled: Path, tmp_path: Path) -> None:
    """A layer or a tensor without weights is refused, for it would be random."""
    weights = load_file(spoiled / "model.safetensors")
    lost = next(name for name in weights if name.endswith("layer.1.attention.self.query.weight"))
    save_file({name: value for name, value in weights.items() if name != lost}, spoiled / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no weights for .*query\.weight.*random"):
        build_encoder(spoiled, tmp_path, precision="fp32")
    (spoiled / "2_Dense" / "model.safetensors").rename(spoiled / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"2_Dense has no model\.safetensors"):
        build_encoder(spoiled, tmp_path, precision="fp32")


def test_prompts_outside_of_the_pooling_are_refused(spoiled: Path, tmp_path: Path) -> None:
    """``include_prompt: false`` is fine without prompts, and refused with one."""
    change(spoiled / "1_Pooling" / "config.json", include_prompt=False)
    assert SentenceModel.load(spoiled).pooling == ("mean",)
    change(spoiled / "config_sentence_transformers.json", prompts={"query": "ask: "})
    with pytest.raises(UnsupportedArchitectureError, match="include_prompt"):
        build_encoder(spoiled, tmp_path, precision="fp32")


REFUSED_HEADS: list[tuple[str, dict[str, Any], type[ExportError], str]] = [
    ("rerank", {"architectures": ["BertModel"]}, UnsupportedArchitectureError, "BertModel.*no classification head"),
    ("classify", {"architectures": None}, UnsupportedArchitectureError, "architectures is empty"),
    ("rerank", {}, UnsupportedArchitectureError, "the head has 3 labels.*task classify"),
    ("classify", {"id2label": None}, CheckpointError, "names no labels; add \"id2label\""),
    ("classify", {"id2label": {"0": "a", "2": "b"}}, CheckpointError, "numbers 0, 2; they must be 0 to 1"),
    ("classify", {"id2label": {"0": "a", "1": "a"}}, CheckpointError, "same name"),
    ("classify", {"id2label": {"0": "a", "1": "b"}}, CheckpointError, "cannot be loaded"),
    ("classify", {"problem_type": "regression"}, UnsupportedArchitectureError, "'regression'.*single_label"),
    ("rerank", {"id2label": {"0": "a"}, "sbert_ce_default_activation_function": "my.Fn"}, UnsupportedArchitectureError,
     "'my.Fn'.*Sigmoid, Identity"),
]  # fmt: skip


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three labels."""
    names = {0: "a", 1: "b", 2: "c"}
    folder = tmp_path_factory.mktemp("classifier") / "model"
    return write_checkpoint(folder, "bert", HEAD, id2label=names, label2id={name: n for n, name in names.items()})


@pytest.mark.parametrize(("task", "values", "error", "message"), REFUSED_HEADS)
def test_a_head_that_does_not_suit_is_named(
    classifier: Path, tmp_path: Path, task: Any, values: dict[str, Any], error: type[ExportError], message: str
) -> None:
    """A head of another kind, without labels or with others than its weights, is refused with what would do."""
    source = Path(shutil.copytree(classifier, tmp_path / "source"))
    change(source / "config.json", **values)
    with pytest.raises(error, match=f"(?s){message}"):
        build_encoder(source, tmp_path, precision="fp32", task=task)
