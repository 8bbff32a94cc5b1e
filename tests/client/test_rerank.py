"""Reranking: order, batches, limits."""

import json
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from fathom_client import AsyncClient, Client, InvalidArgumentError, InvalidRequestError, ProtocolError

QUERY = "red green blue grey"
DOCUMENTS = ["no colour", "red", "blue red", "green blue red", "grey", "green grey red blue", "blue"]
SCORES = [0.0, 0.25, 0.5, 0.75, 0.25, 1.0, 0.25]


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_scores_keep_the_order_of_the_documents(client: Client, batch_size: int | None) -> None:
    """Each document's score stands where the document stood, however the pairs are cut into batches."""
    result = client.rerank("reranker", QUERY, DOCUMENTS, batch_size=batch_size)
    assert result.scores.dtype == np.float32
    assert result.scores.tolist() == SCORES
    assert result.num_input_tokens == tuple(4 + len(document.split()) for document in DOCUMENTS)
    assert result.model == "reranker"


def test_order_is_best_first_and_equal_ones_as_given(client: Client) -> None:
    """``order`` gives positions of the documents by falling score; ties keep the caller's order."""
    assert client.rerank("reranker", QUERY, DOCUMENTS).order == (5, 3, 2, 1, 4, 6, 0)


async def test_sync_and_async_rerank_alike(client: Client, async_client: AsyncClient) -> None:
    """Both clients get the same scores."""
    one, other = client.rerank("reranker", QUERY, DOCUMENTS), await async_client.rerank("reranker", QUERY, DOCUMENTS)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.order == other.order


def test_long_pair_is_refused_or_cut(client: Client) -> None:
    """A pair beyond the model's limit is refused with its length; ``truncate`` lets it through."""
    long = "red " * 80
    with pytest.raises(InvalidRequestError, match="pair 0 has 84 tokens; at most 64 fit"):
        client.rerank("reranker", QUERY, [long])
    assert client.rerank("reranker", QUERY, [long], truncate=True).num_input_tokens == (64,)


@pytest.mark.parametrize(
    ("query", "documents", "message"),
    [
        ("", ["a"], "query is empty"),
        ("a", [], "documents is empty"),
        ("a", ["b", ""], r"documents\[1\] is empty"),
        ("a", 7, "documents is a int"),
        (None, ["b"], "query is a NoneType"),
    ],
)
def test_pairs_that_cannot_be_sent_are_named(query: Any, documents: Any, message: str) -> None:
    """A query or document that is no text is refused with its place before anything is sent."""
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidArgumentError, match=message):
        client.rerank("reranker", query, documents)


def test_a_model_of_another_task_is_named(client: Client) -> None:
    """Asking an embedding model for scores says that it takes other tensors."""
    with pytest.raises((InvalidRequestError, ProtocolError), match="minilm"):
        client.rerank("minilm", QUERY, DOCUMENTS)


def test_command_prints_the_best_first(cli: Callable[..., CompletedProcess[str]]) -> None:
    """``fathom-client rerank`` prints a line of JSON a document by falling score, from arguments or standard input."""
    by_arguments = cli("rerank", QUERY, *DOCUMENTS, "--model", "reranker")
    by_lines = cli("rerank", QUERY, "-", "--model", "reranker", "--batch-size", "2", stdin="\n".join(DOCUMENTS) + "\n")
    assert by_arguments.stdout == by_lines.stdout
    lines = [json.loads(line) for line in by_arguments.stdout.splitlines()]
    assert [line["position"] for line in lines] == [5, 3, 2, 1, 4, 6, 0]
    assert lines[0] == {"score": 1.0, "position": 5, "document": DOCUMENTS[5]}
