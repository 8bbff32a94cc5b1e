"""Tokens guessed ahead never change an answer, through the real Triton, whoever guesses."""

import pytest
from tests.serving import FathomServe, wait_until

from fathom_client import Client, Generation
from fathom_client import metric_names as names

CONVERSATIONS = (
    "Repeat after me: the quick brown fox jumps over the lazy dog and the quick brown fox sleeps",
    "Sort these words: pear apple fig pear apple fig",
    "What is 17 + 25?",
)
SAMPLED = {"temperature": 0.8, "top_p": 0.9, "seed": 7}


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("model", ["looking", "drafted"])
def test_guesses_change_no_answer(caller: Client, model: str, options: dict[str, float]) -> None:
    """Greedy or drawn with a seed, alone or all at once, answers are those of the same model without guesses."""
    calls = [[{"role": "user", "content": text}] for text in CONVERSATIONS]
    wanted = [caller.chat("roomy", call, max_tokens=48, ignore_eos=True, **options).token_ids for call in calls]
    alone = [caller.chat(model, call, max_tokens=48, ignore_eos=True, **options).token_ids for call in calls]
    together = caller.chat_many(model, calls, max_tokens=48, ignore_eos=True, **options)
    assert alone == wanted
    assert [answer.token_ids for answer in together if isinstance(answer, Generation)] == wanted


@pytest.mark.timeout(60)
@pytest.mark.parametrize("model", ["looking", "drafted"])
def test_guesses_are_counted(crowded: FathomServe, caller: Client, model: str) -> None:
    """What was tried and what came true stands on the metrics port."""
    prompt = "one two three one two three one two three one two"

    def has_counted() -> bool:
        # a guesser that does not pay is tried now and then
        caller.generate(model, prompt, max_tokens=600, ignore_eos=True)
        return crowded.metric(names.ACCEPTED_TOKENS, model) > 0

    wait_until(has_counted)
    assert crowded.metric(names.ACCEPTED_TOKENS, model) <= crowded.metric(names.DRAFT_TOKENS, model)
