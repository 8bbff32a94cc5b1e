"""Tokens through the whole stack are those that the model is given."""

import pytest
from tests.serving import FathomServe

from fathom_client import AsyncClient, Client, InvalidRequestError, Message, ModelNotFoundError

TEXTS = [
    "Sort alphabetically: ship, lamp, apple",
    " two  spaces\n\tand a tab",
    "Grüße aus Köln, 東京 👩‍👩‍👧‍👦 e\u0301",
    "0",
]
MESSAGES = [Message("system", "Answer in one word."), Message("user", "What is 23 + 45?")]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_has_the_tokens_that_the_model_is_given(client: Client, text: str) -> None:
    """Token ids, their number, and the text that they spell agree with each other and with a generation's count."""
    tokens = client.tokenize("chat", text)
    assert tokens.model == "chat"
    assert client.count_tokens("chat", text) == len(tokens.token_ids)
    assert client.generate("chat", text, max_tokens=1).num_input_tokens == len(tokens.token_ids)
    by_ids = client.generate("chat", tokens.token_ids, max_tokens=4)
    assert by_ids.token_ids == client.generate("chat", text, max_tokens=4).token_ids
    assert client.detokenize("chat", tokens.token_ids) == text


async def test_conversation_is_counted_in_its_template(client: Client, server: FathomServe) -> None:
    """A conversation's tokens are those of ``chat``, the template's own among them; both clients say the same."""
    tokens = client.tokenize("chat", MESSAGES)
    assert client.chat("chat", MESSAGES, max_tokens=1).num_input_tokens == len(tokens.token_ids)
    assert len(tokens.token_ids) > client.count_tokens("chat", "Answer in one word.What is 23 + 45?")
    async with AsyncClient(server.url) as async_client:
        assert await async_client.tokenize("chat", MESSAGES) == tokens
        assert await async_client.count_tokens("chat", MESSAGES) == len(tokens.token_ids)
        assert await async_client.detokenize("chat", client.tokenize("chat", TEXTS[0]).token_ids) == TEXTS[0]


def test_what_has_no_tokens_is_refused(client: Client) -> None:
    """Unknown ids and models without a tokenizer are named."""
    with pytest.raises(InvalidRequestError, match="output_ids holds 2147483647; token ids of this model are 0 to"):
        client.detokenize("chat", [1, 2**31 - 1])
    with pytest.raises(ModelNotFoundError, match=r"nobody_tokenizer.*models that are ready: chat"):
        client.tokenize("nobody", "a")
    with pytest.raises(ModelNotFoundError, match="models that are ready"):
        client.count_tokens("chat_tokenizer", "a")
