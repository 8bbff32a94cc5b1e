"""Greedy tokens through the whole stack are transformers' own, alone and in company."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fathom_client import Client

MODELS = Path("examples/models").resolve()
TOKENS = 128

PROMPTS = [
    "What is 17 + 25?",
    "Sort these words alphabetically: pear, fig, apple, kiwi",
    "Copy this exactly: straße 東京 🚀",
    "Count the items: pen, cup, key, map, fan",
    "Write the date 2026-11-21 in words.",
    "The code of Ana is 4711. The code of Ben is 8020. " * 12 + "What is the code of Ben?",
    "hello",
    "One sentence after another, none of which the model has been trained on, to see where it goes. " * 4,
]


def reference_tokens(folder: Path) -> dict[str, list[int]]:
    """128 greedy tokens of transformers in fp32 for each prompt, whatever token ends an answer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    answers = {}
    for prompt in PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            output = model.generate(**ids, max_new_tokens=TOKENS, do_sample=False)
        answers[prompt] = output[0, ids["input_ids"].shape[1] :].tolist()
    return answers


def ask(client: Client, model: str, prompt: str) -> list[int]:
    messages = [{"role": "user", "content": prompt}]
    return list(client.chat(model, messages, max_tokens=TOKENS, ignore_eos=True).token_ids)


@pytest.mark.parametrize(("model", "source"), [("chat", "large"), ("small", "small"), ("chat_portable", "small")])
def test_tokens_are_those_of_transformers(client: Client, model: str, source: str) -> None:
    """128 of 128 greedy tokens agree for each prompt alone, and for 16 of mixed lengths together."""
    expected = reference_tokens(MODELS / source)
    assert {prompt: ask(client, model, prompt) for prompt in PROMPTS} == expected
    together = PROMPTS * 2
    with ThreadPoolExecutor(len(together)) as pool:
        answers = list(pool.map(lambda prompt: ask(client, model, prompt), together))
    assert answers == [expected[prompt] for prompt in together]


def test_int8_is_the_same_alone_and_in_company(client: Client) -> None:
    """In int8 a request's tokens do not depend on its neighbours."""
    alone = [ask(client, "chat_int8", prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda prompt: ask(client, "chat_int8", prompt), PROMPTS * 2)) == alone * 2
