"""One model of each encoder's task, from ``fathom-export`` through a real Triton to the client."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import transformers
import tritonclient.grpc as triton
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.models import Normalize, Pooling
from tests.export.encoder_checkpoints import write_checkpoint, write_sentence_model
from tests.serving import FathomServe

from fathom_client import Client, InvalidRequestError

TEXTS = ["the cat sat on the mat", "Home", "how do I reset my PASSWORD on the account page, hello, how are you?"]
QUERY = "how do I reset my password"
DOCUMENTS = ["the account page", "a long way from home and the cat looked at the bird", "reset", "mat " * 30]
LABELS = ["glad", "traurig 悲", "so so"]
PROMPTS = {"query": "reset: ", "passage": "the page: ", "other": "mat "}
HEAD = "ForSequenceClassification"

BUNDLE = """
repository = "repository"

[[models]]
name = "embed"
source = "embed"
task = "embed"

[[models]]
name = "rerank"
source = "rerank"
task = "rerank"
precision = "int8"
limits = {{ max_batch = 8 }}

[[models]]
name = "rerank_fp32"
source = "rerank"
task = "rerank"

[[models]]
name = "classify"
source = "classify"
task = "classify"
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sentence model that lowers and has prompts, a cross-encoder and a classifier."""
    folder = tmp_path_factory.mktemp("encoders")
    plain = write_checkpoint(folder / "plain", "bert")
    write_sentence_model(folder / "embed", plain, [Pooling(32), Normalize()])
    lowering = folder / "embed" / "sentence_bert_config.json"
    lowering.write_text(json.dumps({**json.loads(lowering.read_text()), "do_lower_case": True}))
    prompts = folder / "embed" / "config_sentence_transformers.json"
    content = {**json.loads(prompts.read_text()), "prompts": PROMPTS, "default_prompt_name": "other"}
    prompts.write_text(json.dumps(content))
    head = write_checkpoint(folder / "head", "bert", HEAD, num_labels=1)
    CrossEncoder(str(head), device="cpu").save_pretrained(str(folder / "rerank"))
    names = dict(enumerate(LABELS))
    numbers = {name: number for number, name in names.items()}
    write_checkpoint(folder / "classify", "distilbert", HEAD, id2label=names, label2id=numbers)
    return folder


@pytest.fixture(scope="module")
def server(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FathomServe]:
    """A server over what ``fathom-export`` makes of them."""
    (sources / "bundle.toml").write_text(BUNDLE.format())
    command = [sys.executable, "-m", "fathom_export.cli", str(sources / "bundle.toml")]
    export = subprocess.run(command, capture_output=True, text=True, check=False)
    assert export.returncode == 0, export.stdout + export.stderr
    with FathomServe(sources / "repository", tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: FathomServe) -> Iterator[Client]:
    """A client of it."""
    with Client(server.url) as connected:
        yield connected


@pytest.mark.parametrize("prompt", [None, "query", "passage", "other"])
def test_prompts_are_those_of_sentence_transformers(client: Client, sources: Path, prompt: str | None) -> None:
    """A named prompt, or the default one, goes before each text, and capitals are lowered where the folder says so."""
    reference = SentenceTransformer(str(sources / "embed"), device="cpu").encode(TEXTS, prompt_name=prompt)
    np.testing.assert_allclose(client.embed("embed", TEXTS, prompt_name=prompt).vectors, reference, atol=1e-4)


def test_queries_and_documents_have_their_prompts(client: Client, sources: Path) -> None:
    """``query`` and ``document`` are encode_query and encode_document, with a prompt in the folder and without."""
    model = SentenceTransformer(str(sources / "embed"), device="cpu")
    for name, encode in (("query", model.encode_query), ("document", model.encode_document)):
        np.testing.assert_allclose(client.embed("embed", TEXTS, prompt_name=name).vectors, encode(TEXTS), atol=1e-4)


def test_an_unknown_prompt_is_refused_with_those_that_there_are(client: Client) -> None:
    """The error names the model's prompts."""
    with pytest.raises(
        InvalidRequestError, match="'nobody' is unknown; this model has document, other, passage, query"
    ):
        client.embed("embed", TEXTS, prompt_name="nobody")


@pytest.mark.parametrize(("model", "most"), [("rerank_fp32", 1e-4), ("rerank", 0.05)])
def test_scores_are_those_of_the_cross_encoder(client: Client, sources: Path, model: str, most: float) -> None:
    """Each document's score is CrossEncoder's, in one request, one by one, and cut where it is too long."""
    reference = CrossEncoder(str(sources / "rerank"), device="cpu").predict([(QUERY, each) for each in DOCUMENTS])
    together = client.rerank(model, QUERY, DOCUMENTS)
    np.testing.assert_allclose(together.scores, reference, atol=most)
    for position, document in enumerate(DOCUMENTS):
        alone = client.rerank(model, QUERY, [document])
        np.testing.assert_allclose(alone.scores, together.scores[position : position + 1], atol=1e-3)
        assert alone.num_input_tokens == together.num_input_tokens[position : position + 1]
    long = "mat and home " * 60
    with pytest.raises(InvalidRequestError, match=r"pair 0 has \d+ tokens; this model takes at most 64"):
        client.rerank(model, QUERY, [long])
    cut = client.rerank(model, QUERY, [long], truncate=True)
    assert cut.num_input_tokens == (64,)
    wanted = CrossEncoder(str(sources / "rerank"), device="cpu").predict([(QUERY, long)])
    np.testing.assert_allclose(cut.scores, wanted, atol=most)


def test_probabilities_are_those_of_transformers(client: Client, sources: Path) -> None:
    """Each text's probabilities and labels are those of transformers' own pipeline."""
    pipeline = transformers.pipeline("text-classification", model=str(sources / "classify"), device="cpu")
    result = client.classify("classify", TEXTS)
    assert result.labels == tuple(LABELS)
    for scores, label, wanted in zip(result.scores, result.top_labels, pipeline(TEXTS, top_k=None), strict=True):
        by_label = {each["label"]: each["score"] for each in wanted}
        np.testing.assert_allclose(scores, [by_label[name] for name in LABELS], atol=1e-4)
        assert label == wanted[0]["label"]


def test_tritons_classification_extension_names_the_labels(server: FathomServe) -> None:
    """A caller of Triton's own who asks for the best classes of ``scores`` gets them by name."""
    with triton.InferenceServerClient(server.url) as own:
        texts = triton.InferInput("text_input", [1, 1], "BYTES")
        texts.set_data_from_numpy(np.array([[TEXTS[0].encode()]], dtype=np.object_))
        scores = own.infer("classify", [texts]).as_numpy("scores")[0]
        best = triton.InferRequestedOutput("scores", class_count=2)
        answer = own.infer("classify", [texts], outputs=[best]).as_numpy("scores")[0]
    named = [entry.decode().split(":", 2) for entry in answer]
    assert [name for _, _, name in named] == [LABELS[number] for number in np.argsort(-scores)[:2]]
    assert float(named[0][0]) == pytest.approx(float(scores.max()), abs=1e-5)


def test_requests_that_share_a_batch_do_not_touch_each_other(client: Client) -> None:
    """Many callers at once get what each gets alone, and a bad request among them fails alone."""
    expected = client.rerank("rerank", QUERY, DOCUMENTS).scores

    def ask(number: int) -> object:
        if number % 5 == 4:
            with pytest.raises(InvalidRequestError, match="document 0 is empty"):
                client.rerank("rerank", QUERY, [" "])
            return None
        place = number % len(DOCUMENTS)
        return place, client.rerank("rerank", QUERY, [DOCUMENTS[place]]).scores[0]

    with ThreadPoolExecutor(16) as pool:
        answers = [answer for answer in pool.map(ask, range(100)) if answer is not None]
    assert len(answers) == 80
    for place, score in answers:
        assert score == pytest.approx(expected[place], abs=1e-3)
