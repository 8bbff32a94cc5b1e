"""Small beside large on a real Triton: which model's answer a caller is given, and what it is told of it."""

import pytest
from tests.e2e.cascade_deployment import EASY, HARD, ask, told

from fathom_client import Client, InvalidRequestError


@pytest.mark.parametrize("streams", [True, False])
def test_trusted_answer_is_the_small_models(cascade_client: Client, *, streams: bool) -> None:
    """An answer whose every token was likely is the small model's own, and costs nothing of the large one."""
    alone = cascade_client.chat("small", ask(EASY), max_tokens=32)
    if streams:
        stream = cascade_client.stream_chat("chat", ask(EASY), max_tokens=32)
        chunks = list(stream)
        answer = stream.result()
        assert "".join(chunk.text for chunk in chunks) == alone.text
    else:
        answer = cascade_client.chat("chat", ask(EASY), max_tokens=32)
    assert (answer.text, answer.token_ids, answer.finish_reason) == (alone.text, alone.token_ids, "stop")
    details = told(answer)
    assert (details["answered_by"], details["reason"], details["signal"]) == ("small", "trusted", "min_logprob")
    assert details["value"] >= details["threshold"] == -0.05
    assert details["small"]["input_tokens"] == alone.num_input_tokens
    assert details["small"]["output_tokens"] == alone.num_output_tokens
    assert details["large"] == {"model": "large", "input_tokens": 0, "output_tokens": 0}


@pytest.mark.parametrize("streams", [True, False])
def test_doubtful_answer_is_the_large_models(cascade_client: Client, *, streams: bool) -> None:
    """An answer with an unlikely token is not seen: the large model's is given, and both costs are told."""
    alone = cascade_client.chat("large", ask(HARD), max_tokens=32)
    small = cascade_client.chat("small", ask(HARD), max_tokens=32, logprobs=0)
    if streams:
        stream = cascade_client.stream_chat("chat", ask(HARD), max_tokens=32)
        assert "".join(chunk.text for chunk in stream) == alone.text
        answer = stream.result()
    else:
        answer = cascade_client.chat("chat", ask(HARD), max_tokens=32)
    assert (answer.text, answer.token_ids) == (alone.text, alone.token_ids)
    details = told(answer)
    assert (details["answered_by"], details["reason"]) == ("large", "doubted")
    assert details["value"] < -0.05
    assert details["large"]["output_tokens"] == alone.num_output_tokens
    assert 0 < details["small"]["output_tokens"] <= small.num_output_tokens


def test_log_probabilities_are_those_that_the_caller_asked_for(cascade_client: Client) -> None:
    """The decision needs log-probabilities; the caller has them only if it asks, and then as it asks."""
    alone = cascade_client.chat("small", ask(EASY), max_tokens=8, logprobs=2)
    answer = cascade_client.chat("chat", ask(EASY), max_tokens=8, logprobs=2)
    assert answer.logprobs == alone.logprobs
    assert cascade_client.chat("chat", ask(EASY), max_tokens=8).logprobs is None


def test_several_answers_stream_together(cascade_client: Client) -> None:
    """Of several answers the most doubtful decides, and all come from one model."""
    stream = cascade_client.stream_chat("chat", ask(EASY), max_tokens=8, n=3, temperature=0.01, seed=5)
    assert {chunk.index for chunk in stream} == {0, 1, 2}
    answer = stream.result()
    assert [choice.text for choice in answer.choices] == [answer.text] * 3
    assert told(answer)["answered_by"] == "small"


def test_bad_requests_are_refused_as_a_model_refuses_them(cascade_client: Client) -> None:
    """What the caller got wrong is told as the models tell it, and the next request is served."""
    with pytest.raises(InvalidRequestError, match="max_tokens is 64000"):
        cascade_client.chat("chat", ask("x"), max_tokens=64000)
    with pytest.raises(InvalidRequestError, match="input_ids holds 1000000"):
        cascade_client.generate("chat", [1_000_000], max_tokens=4)
    assert cascade_client.chat("chat", ask(EASY), max_tokens=4).num_output_tokens > 0


def test_tokens_of_a_prompt_are_those_of_the_small_model(cascade_client: Client) -> None:
    """A cascade's tokenizer is there under its name, as every LLM's is."""
    assert cascade_client.tokenize("chat", "hello").token_ids == cascade_client.tokenize("small", "hello").token_ids


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("prompt", [HARD, "straight: " + HARD])
def test_without_the_large_model_the_small_ones_answer_is_given_and_marked(
    cascade_client: Client, prompt: str, *, streams: bool
) -> None:
    """A large model that cannot be reached costs no answer, whether the signal or the router would have asked it."""
    alone = cascade_client.chat("small", ask(prompt), max_tokens=32)
    if streams:
        answer = cascade_client.stream_chat("lonely", ask(prompt), max_tokens=32).result()
    else:
        answer = cascade_client.chat("lonely", ask(prompt), max_tokens=32)
    assert (answer.text, answer.token_ids) == (alone.text, alone.token_ids)
    details = told(answer)
    assert (details["answered_by"], details["reason"]) == ("small", "large_unavailable")
    assert "large" in details["large_error"]
    assert details["large"]["output_tokens"] == 0
