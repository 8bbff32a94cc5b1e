"""Lists whose items fail one by one."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fathom_client import (
    AsyncClient,
    Classification,
    Client,
    ClientClosedError,
    DeadlineExceededError,
    Embeddings,
    FathomError,
    Generation,
    InvalidArgumentError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    Rerank,
)

REFUSED = json.dumps({"error": ("INVALID_ARG", "not this one")}) + "\nhello"
FULL = json.dumps({"error": ("UNAVAILABLE", "the queue is full")}) + "\nhello"


def kinds(outcomes: list) -> list[str]:
    """The class of each outcome."""
    return [type(outcome).__name__ for outcome in outcomes]


async def test_answers_and_errors_stand_in_order(client: Client, async_client: AsyncClient) -> None:
    """Each prompt has its own outcome in its place: an answer, or the error that it met here or at the server."""
    prompts = ["first", REFUSED, "", [104, 105], FULL, *(f"prompt {number}" for number in range(40)), [-1]]
    for outcomes in (
        client.generate_many("chat", prompts, concurrency=8),
        await async_client.generate_many("chat", prompts, concurrency=8),
    ):
        texts = [outcome.text if isinstance(outcome, Generation) else type(outcome) for outcome in outcomes]
        assert texts == [
            *("first", InvalidRequestError, InvalidArgumentError, "hi", OverloadedError),
            *(f"prompt {number}" for number in range(40)),
            InvalidArgumentError,
        ]


async def test_conversations_are_answered_in_order(client: Client, async_client: AsyncClient) -> None:
    """``chat_many`` does the same for conversations, with options for all and a request id for each."""
    turns = [[{"role": "user", "content": f"turn {number}"}] for number in range(5)]
    conversations = [*turns, [{"role": "user"}]]
    for outcomes in (
        client.chat_many("chat", conversations, max_tokens=4, request_id="mine"),
        await async_client.chat_many("chat", conversations, max_tokens=4, request_id="mine"),
    ):
        assert kinds(outcomes) == ["Generation"] * 5 + ["InvalidArgumentError"]
        answers = [outcome for outcome in outcomes if isinstance(outcome, Generation)]
        assert [answer.text for answer in answers] == ["turn"] * 5
        assert [answer.request_id for answer in answers] == [f"mine-{number}" for number in range(5)]


def test_slow_answers_hold_up_nobody(client: Client, ordered: Callable[..., str], tmp_path: Path) -> None:
    """A request that does not end leaves the other places to the rest of the list."""
    first = ordered("a " * 2000, delay_s=0.01)
    prompts = [first, *(ordered("quick", marker=str(tmp_path / f"{number}")) for number in range(20))]
    outcomes = client.generate_many("chat", prompts, concurrency=2, timeout_s=1.5)
    assert isinstance(outcomes[0], DeadlineExceededError)
    assert kinds(outcomes[1:]) == ["Generation"] * 20


async def test_one_long_text_fails_alone(client: Client, async_client: AsyncClient) -> None:
    """Texts that the server or this side refuses fail, and their neighbours in the same batch do not."""
    texts = [f"text {number}" for number in range(30)]
    texts[3], texts[17], texts[20] = "x" * 600, "", "y" * 700
    expected = client.embed("minilm", [text or "-" for text in texts], truncate=True).vectors
    for outcomes in (client.embed_many("minilm", texts), await async_client.embed_many("minilm", texts)):
        for index, outcome in enumerate(outcomes):
            if index in (3, 20):
                assert isinstance(outcome, InvalidRequestError)
                assert f"text_input has {len(texts[index])} tokens" in str(outcome)
            elif index == 17:
                assert isinstance(outcome, InvalidArgumentError)
                assert str(outcome).startswith("texts[17] is empty")
            else:
                assert isinstance(outcome, Embeddings)
                np.testing.assert_array_equal(outcome.vectors, expected[index : index + 1])
                assert outcome.num_input_tokens == (len(texts[index]),)


async def test_labels_come_text_by_text(client: Client, async_client: AsyncClient) -> None:
    """``classify_many`` gives each text's own labels, equal to those of ``classify``."""
    texts = ["what a day", "", "oh no"]
    whole = client.classify("moods", [texts[0], texts[2]])
    for outcomes in (client.classify_many("moods", texts), await async_client.classify_many("moods", texts)):
        assert kinds(outcomes) == ["Classification", "InvalidArgumentError", "Classification"]
        rows = [outcome for outcome in outcomes if isinstance(outcome, Classification)]
        assert tuple(row.top_labels[0] for row in rows) == whole.top_labels
        np.testing.assert_array_equal(np.concatenate([row.scores for row in rows]), whole.scores)


async def test_documents_are_judged_one_by_one(client: Client, async_client: AsyncClient) -> None:
    """``rerank_many`` gives each document's own score, equal to that of ``rerank``; one that is none fails alone."""
    documents = ["a bridge", "", "a long bridge", 7]
    whole = client.rerank("reranker", "bridge", ["a bridge", "a long bridge"])
    for outcomes in (
        client.rerank_many("reranker", "bridge", documents),  # type: ignore[arg-type] # of which one is wrong
        await async_client.rerank_many("reranker", "bridge", documents),  # type: ignore[arg-type]
    ):
        assert kinds(outcomes) == ["Rerank", "InvalidArgumentError", "Rerank", "InvalidArgumentError"]
        assert str(outcomes[3]).startswith("documents[3] is a int")
        scores = [outcome.scores for outcome in outcomes if isinstance(outcome, Rerank)]
        np.testing.assert_array_equal(np.concatenate(scores), whole.scores)


async def test_error_of_all_is_the_error_of_each(client: Client, async_client: AsyncClient) -> None:
    """Where no item can be answered each has the reason; an empty list has no outcome."""
    for outcomes in (
        client.generate_many("nobody", ["a", "b"]),
        await async_client.generate_many("nobody", ["a", "b"]),
        client.embed_many("nobody", ["a", "b"], batch_size=1),
        await async_client.embed_many("nobody", ["a", "b"], batch_size=1),
    ):
        assert kinds(outcomes) == [ModelNotFoundError.__name__] * 2
    assert client.generate_many("chat", []) == client.embed_many("minilm", []) == []
    assert await async_client.generate_many("chat", []) == await async_client.classify_many("moods", []) == []


def test_time_limit_of_texts_is_for_all(client: Client) -> None:
    """What is late is an outcome as well; what came in time stands."""
    outcomes = client.embed_many("minilm", ["quick", *["slow"] * 8], batch_size=1, timeout_s=1.0)
    assert isinstance(outcomes[0], Embeddings)
    assert isinstance(outcomes[-1], DeadlineExceededError)


async def test_leaving_a_list_cancels_what_runs(
    url: str, async_client: AsyncClient, ordered: Callable[..., str], seen: Callable[[str], str], tmp_path: Path
) -> None:
    """A cancelled task, a closed client or an exception in the middle of a list cancels its requests on the server."""
    prompt = ordered("a " * 500, delay_s=0.02)
    task = asyncio.ensure_future(async_client.generate_many("chat", [prompt] * 3, concurrency=1))
    await asyncio.to_thread(seen, "started")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await asyncio.to_thread(seen, "cancelled")).startswith("cancelled after")
    client = Client(url)
    prompts = [
        ordered("a " * 500, delay_s=0.02, started=str(tmp_path / f"s{n}"), marker=str(tmp_path / f"c{n}"))
        for n in range(4)
    ]
    listing = asyncio.ensure_future(asyncio.to_thread(client.generate_many, "chat", prompts, concurrency=2))
    await asyncio.to_thread(seen, "s1")
    client.close()
    outcomes = await listing
    assert all(isinstance(outcome, FathomError) for outcome in outcomes)
    assert isinstance(outcomes[3], ClientClosedError)
    assert (await asyncio.to_thread(seen, "c1")).startswith("cancelled after")


def test_unknown_option_is_a_mistake_and_no_outcome(client: Client) -> None:
    """What is wrong for the whole list raises, and leaves no thread behind."""
    with pytest.raises(TypeError, match="unknown option"):
        client.generate_many("chat", ["a"] * 5, temprature=1)  # type: ignore[call-arg]
    for wrong, message in (("a", "prompts is a str; give a list"), ({"a": 1}, "prompts is a dict; give a list")):
        with pytest.raises(InvalidArgumentError, match=message):
            client.generate_many("chat", wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="concurrency is 0"):
        client.generate_many("chat", ["a"], concurrency=0)
    with pytest.raises(InvalidArgumentError, match="texts is a str; give a list"):
        client.embed_many("minilm", "a")
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("fathom-client") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
