"""Embeddings: order, batches, limits."""

import hashlib
import inspect
import time

import numpy as np
import pytest

from fathom_client import AsyncClient, CallTimes, Client, DeadlineExceededError, InvalidRequestError

from .texts import every_plane


def expected(text: str) -> np.ndarray:
    """The vector that the stand-in makes of a text."""
    digest = hashlib.sha256(text[:512].encode()).digest()
    return np.frombuffer(digest, dtype=np.uint32).astype(np.float32) / np.float32(2**32)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
@pytest.mark.parametrize("batch_size", [None, 1, 3, 8])
def test_vectors_keep_the_order_of_the_texts(client: Client, count: int, batch_size: int | None) -> None:
    """Vector and count of a text stand where the text stood, however the texts are cut into batches."""
    texts = [f"text {number} " + "x" * (number % 5) for number in range(count)]
    embeddings = client.embed("minilm", texts, batch_size=batch_size)
    assert embeddings.vectors.shape == (count, 8)
    assert embeddings.vectors.dtype == np.float32
    np.testing.assert_array_equal(embeddings.vectors, np.stack([expected(text) for text in texts]))
    assert embeddings.num_input_tokens == tuple(map(len, texts))
    assert embeddings.model == "minilm"


async def test_sync_and_async_embed_alike(client: Client, async_client: AsyncClient) -> None:
    """Both clients get the same vectors."""
    texts = [f"text {number}" for number in range(50)]
    one, other = client.embed("minilm", texts), await async_client.embed("minilm", texts)
    np.testing.assert_array_equal(one.vectors, other.vectors)
    assert one.num_input_tokens == other.num_input_tokens


def test_the_named_prompt_goes_before_every_text(client: Client) -> None:
    """``prompt_name`` travels with each text, in every batch."""
    texts = [f"text {number}" for number in range(20)]
    embeddings = client.embed("minilm", texts, prompt_name="query")
    np.testing.assert_array_equal(embeddings.vectors, np.stack([expected(f"query: {text}") for text in texts]))


def test_one_text_needs_no_list(client: Client) -> None:
    """A single text gives one row."""
    text = every_plane()
    np.testing.assert_array_equal(client.embed("minilm", text, truncate=True).vectors, expected(text)[None])


def test_long_text_is_refused_or_cut(client: Client) -> None:
    """A text beyond the model's limit is refused with its length; ``truncate`` cuts it and the count says so."""
    texts = ["short"] * 20 + ["x" * 600]
    with pytest.raises(InvalidRequestError, match="text_input has 600 tokens; at most 512 fit"):
        client.embed("minilm", texts)
    assert client.embed("minilm", texts, truncate=True).num_input_tokens == (5,) * 20 + (512,)


def test_batch_beyond_the_models_limit_is_refused(client: Client) -> None:
    """A batch size that the model does not take is the server's to refuse, with its limit."""
    with pytest.raises(InvalidRequestError, match="batch-size must be <= 8") as caught:
        client.embed("minilm", ["a"] * 9, batch_size=9)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.request_id


async def test_time_limit_holds_for_all_texts_together(client: Client, async_client: AsyncClient) -> None:
    """The limit is for the whole call, not for a batch, and what is not sent by then is not sent."""
    with pytest.raises(DeadlineExceededError, match="minilm"):
        client.embed("minilm", ["slow"] * 40, batch_size=1, timeout_s=0.8)
    with pytest.raises(DeadlineExceededError, match="minilm"):
        await async_client.embed("minilm", ["slow"] * 40, batch_size=1, timeout_s=0.8)


async def test_a_call_tells_when_it_was_sent_and_answered(client: Client, async_client: AsyncClient) -> None:
    """The times lie within the call, around what the model takes; of several requests, the first and the last count."""
    texts = ["slow", *["quick"] * 20]
    for embed in (client.embed, async_client.embed):
        times, unused = CallTimes(), CallTimes()
        before_ns = time.perf_counter_ns()
        with times.use():
            embeddings = embed("minilm", texts)
            if inspect.isawaitable(embeddings):
                await embeddings
        assert before_ns < times.sent_ns < times.received_ns < time.perf_counter_ns()
        assert times.received_ns - times.sent_ns > 0.5e9, "a slow text takes half a second"
        noted = (times.sent_ns, times.received_ns)
        single = embed("minilm", "outside of the block")
        if inspect.isawaitable(single):
            await single
        assert (times.sent_ns, times.received_ns) == noted
        assert unused == CallTimes(0, 0)
