"""Classification: order, batches, labels, limits."""

import json
from collections.abc import Callable
from subprocess import CompletedProcess

import numpy as np
import pytest

from fathom_client import AsyncClient, Client, InvalidArgumentError, InvalidRequestError

LABELS = ("glad", "traurig 悲", "so-so")
TEXTS = ["++", "--", "abcd", "+-", "+++-", "a-", "++++++++"]
SCORES = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0.75, 0.25, 0], [0, 0.5, 0.5], [1, 0, 0]]


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_probabilities_keep_the_order_of_the_texts(client: Client, batch_size: int | None) -> None:
    """Each text's probabilities stand where the text stood, under the model's labels."""
    result = client.classify("moods", TEXTS, batch_size=batch_size)
    assert result.labels == LABELS
    assert result.scores.dtype == np.float32
    assert result.scores.tolist() == SCORES
    assert result.num_input_tokens == tuple(map(len, TEXTS))


def test_top_label_is_the_most_probable(client: Client) -> None:
    """``top_labels`` names one label a text, the first of equal ones."""
    assert client.classify("moods", TEXTS).top_labels == ("glad", "traurig 悲", "so-so", "glad", "glad", *LABELS[1::-1])


async def test_sync_and_async_classify_alike(client: Client, async_client: AsyncClient) -> None:
    """Both clients get the same probabilities and labels."""
    one, other = client.classify("moods", TEXTS), await async_client.classify("moods", TEXTS)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.labels == other.labels


def test_long_text_is_refused_or_cut(client: Client) -> None:
    """A text beyond the model's limit is refused with its length; ``truncate`` cuts it."""
    with pytest.raises(InvalidRequestError, match="text 1 has 600 tokens; at most 512 fit"):
        client.classify("moods", ["+", "+" * 600])
    assert client.classify("moods", "+" * 600, truncate=True).num_input_tokens == (512,)


def test_text_that_cannot_be_sent_is_named() -> None:
    """An empty text is refused with its place before anything is sent."""
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidArgumentError, match=r"texts\[1\] is empty"):
        client.classify("moods", ["a", ""])


def test_command_prints_json_lines(cli: Callable[..., CompletedProcess[str]]) -> None:
    """``fathom-client classify`` prints each text's label and probabilities, from arguments or standard input."""
    by_arguments = cli("classify", "--model", "moods", "--", *TEXTS)
    by_lines = cli("classify", "-", "--model", "moods", stdin="\n".join(TEXTS) + "\n")
    assert by_arguments.stdout == by_lines.stdout
    lines = [json.loads(line) for line in by_arguments.stdout.splitlines()]
    assert [line["text"] for line in lines] == TEXTS
    assert lines[5] == {"text": "a-", "label": LABELS[1], "scores": dict(zip(LABELS, SCORES[5], strict=True))}
