"""Every architecture and task says what transformers and sentence-transformers say, in both precisions."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
import transformers
from tests.export.encoder_checkpoints import FAMILIES, LENGTH, write_checkpoint

from fathom_client.protocol import TOKEN_TYPE_IDS
from fathom_export.encoder import EncoderGraph, EncoderTask, build_encoder
from fathom_export.encoder.quantise import quantise_to_int8
from fathom_server.text.tokenizer import TextTokenizer

TEXTS = [
    "the cat sat on the mat",
    "home",
    "how do I reset my password on the account page, hello, how are you today?",
    "a long way from home and the bird looked at the cat " * 4,
]
PAIRS = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
LABELS = {0: "glad", 1: "sad", 2: "so-so"}
HEAD = "ForSequenceClassification"

Arrays = dict[str, npt.NDArray[np.int64]]


def batch_of(source: Path, rows: list[str] | list[tuple[str, str]]) -> Arrays:
    """What transformers' own tokenizer makes of texts or pairs: one batch, padded."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    given = tuple(map(list, zip(*rows, strict=True))) if isinstance(rows[0], tuple) else (rows,)
    batch = tokenizer(*given, padding=True, truncation=True, max_length=LENGTH, return_tensors="np")
    return {name: array.astype(np.int64) for name, array in batch.items()}


def rows_of(batch: Arrays) -> list[Arrays]:
    """Each row of a batch alone, without padding."""
    lengths = batch["attention_mask"].sum(axis=1)
    return [
        {name: array[row : row + 1, :length] for name, array in batch.items()} for row, length in enumerate(lengths)
    ]


def run(graph: Path, output: str, batch: Arrays) -> npt.NDArray[np.float32]:
    """The graph's output, given those of the inputs that it has."""
    session = onnxruntime.InferenceSession(graph / "model.onnx", providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    result: npt.NDArray[np.float32] = session.run([output], {name: batch[name] for name in names})[0]
    return result


def hidden_states(source: Path, row: Arrays) -> npt.NDArray[np.float32]:
    """Transformers' last hidden states of one row, [tokens, width]."""
    model = transformers.AutoModel.from_pretrained(source).eval()
    with torch.no_grad():
        result = model(**{name: torch.from_numpy(array) for name, array in row.items()})
    hidden: npt.NDArray[np.float32] = result.last_hidden_state[0].numpy()
    return hidden


def logits(source: Path, row: Arrays) -> npt.NDArray[np.float32]:
    """Transformers' logits of one row, [labels]."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source).eval()
    with torch.no_grad():
        result = model(**{name: torch.from_numpy(array) for name, array in row.items()})
    values: npt.NDArray[np.float32] = result.logits[0].numpy()
    return values


def cosines(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Cosine of each row to its counterpart."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    result: npt.NDArray[np.float32] = (one * other).sum(axis=1) / norms
    return result


def quantised(graph: Path, folder: Path) -> Path:
    """An int8 copy of a graph."""
    folder.mkdir()
    quantise_to_int8(graph / "model.onnx", folder / "model.onnx")
    return folder


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """A ``model_type``."""
    return str(request.param)


def build(folder: Path, source: Path, task: EncoderTask) -> tuple[Path, EncoderGraph]:
    """The fp32 graph's folder, and what was built."""
    graph = folder / "graph"
    graph.mkdir()
    return graph, build_encoder(source, graph, precision="fp32", task=task)


def test_embeddings_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    """Mean-pooled hidden states of texts up to the model's length: fp32 as the source's, int8 near them.

    A text has the same embedding alone and beside longer ones, in both precisions.
    """
    source = write_checkpoint(tmp_path / "source", family)
    graph, built = build(tmp_path, source, "embed")
    assert built.form.architecture.max_context == LENGTH
    assert built.check["cosine_min"] >= 0.9999
    batch = batch_of(source, TEXTS)
    assert batch["input_ids"].shape[1] > 40  # beyond the sliding window, where there is one
    reference = np.stack([hidden_states(source, row).mean(axis=0) for row in rows_of(batch)])
    for folder, least, apart in ((graph, 0.9999, 1e-5), (quantised(graph, tmp_path / "int8"), 0.97, 1e-3)):
        together = run(folder, "sentence_embedding", batch)
        alone = np.concatenate([run(folder, "sentence_embedding", row) for row in rows_of(batch)])
        print(f"{family} {folder.name}: cosine min {cosines(together, reference).min():.6f}")
        assert cosines(together, reference).min() >= least
        assert cosines(alone, reference).min() >= least
        np.testing.assert_allclose(together, alone, atol=apart * np.abs(alone).max())


def test_pairs_are_scored_as_by_transformers(family: str, tmp_path: Path) -> None:
    """A reranker's score of a pair is the sigmoid of transformers' logit, token types included where there are any."""
    source = write_checkpoint(tmp_path / "source", family, HEAD, num_labels=1)
    graph, built = build(tmp_path, source, "rerank")
    assert (TOKEN_TYPE_IDS in built.form.inputs) == (family in ("bert", "electra"))
    batch = batch_of(source, PAIRS)
    rows = rows_of(batch)
    reference = np.stack([1 / (1 + np.exp(-logits(source, row))) for row in rows])
    assert np.ptp(reference) > 0.01
    for folder, most in ((graph, 1e-4), (quantised(graph, tmp_path / "int8"), 0.05)):
        together = run(folder, "score", batch)
        assert together.shape == (len(PAIRS), 1)
        np.testing.assert_allclose(together, reference, atol=most)
        np.testing.assert_allclose(together, np.concatenate([run(folder, "score", row) for row in rows]), atol=1e-3)
    tokenizer = TextTokenizer.load(source)
    tokenizer.tokenizer.enable_truncation(LENGTH)
    assert [row["input_ids"][0].tolist() for row in rows] == [ids for ids, _ in tokenizer.encode_rows(PAIRS)]


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_labels_are_those_of_transformers(tmp_path: Path, problem: str) -> None:
    """Probabilities are the softmax of the logits for one label a text, the sigmoid of each for any number."""
    source = write_checkpoint(
        tmp_path / "source", "distilbert", HEAD, id2label=LABELS, label2id={name: n for n, name in LABELS.items()},
        problem_type=problem,
    )  # fmt: skip
    graph, built = build(tmp_path, source, "classify")
    assert built.form.output.dims == (3,)
    rows = rows_of(batch_of(source, TEXTS))
    raw = np.stack([logits(source, row) for row in rows])
    single = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    reference = single if problem.startswith("single") else 1 / (1 + np.exp(-raw))
    for folder, most in ((graph, 1e-4), (quantised(graph, tmp_path / "int8"), 0.05)):
        np.testing.assert_allclose(run(folder, "scores", batch_of(source, TEXTS)), reference, atol=most)
