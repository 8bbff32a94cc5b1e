"""Every schema of the data set, under every kind of tokenizer: what the masks let through satisfies the schema."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.server.engine import grammar_tokenizers
from tests.server.engine.grammar_walk import Model, at_random, check_json, walk
from tests.server.engine.schemas.generator import schemas

REAL = [json.loads(line) for line in (Path(__file__).parent / "schemas" / "real.jsonl").read_text("utf-8").splitlines()]
SCHEMAS: dict[str, Any] = {entry["name"]: entry["schema"] for entry in REAL}
SCHEMAS |= {f"random_{index}": schema for index, schema in enumerate(schemas(225, seed=7))}
SEEDS = 3
GREEDY_STEPS = 24
PROMPT = "<|im_start|>user\nAnswer in JSON.<|im_end|>\n<|im_start|>assistant\n"

TOKENIZERS: dict[str, Callable[[], Model]] = {
    "large": lambda: grammar_tokenizers.example("large"),
    "small": lambda: grammar_tokenizers.example("small"),
    "byte level": grammar_tokenizers.byte_level,
    "sentencepiece": lambda: grammar_tokenizers.sentencepiece(leading_space=True),
    "sentencepiece without a space": lambda: grammar_tokenizers.sentencepiece(leading_space=False),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def model(request: pytest.FixtureRequest) -> Model:
    return TOKENIZERS[request.param]()


def test_the_data_set_is_large() -> None:
    """At least 300 different schemas are tried."""
    assert len({json.dumps(schema, sort_keys=True) for schema in SCHEMAS.values()}) >= 380


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_answers_satisfy_the_schema(model: Model, name: str) -> None:
    """Whatever allowed tokens are chosen, the answer is JSON that a validator accepts."""
    value = json.dumps(SCHEMAS[name])
    for seed in range(SEEDS):
        check_json(walk(model, model.matcher("json", value), at_random(model, seed)), SCHEMAS[name])


class Greedy:
    """The most probable allowed token of an example model, computed by transformers; an end where it dawdles."""

    def __init__(self, model: Model, name: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        self.model = model
        folder = grammar_tokenizers.EXAMPLES / name
        self.network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.prompt = model.tokenizer.tokenizer.encode(PROMPT, add_special_tokens=False).ids
        self.hurry = at_random(model, seed=0, free=0)
        self.cache: Any = None
        self.known: list[int] = []

    def __call__(self, ids: npt.NDArray[np.int64], answer: list[int]) -> int:
        if len(answer) >= GREEDY_STEPS:
            return self.hurry(ids, answer)
        whole = [*self.prompt, *answer]
        if whole[: len(self.known)] != self.known or len(whole) == len(self.known):  # another answer
            self.cache, self.known = None, []
        new = whole[len(self.known) :]
        with self.torch.inference_mode():
            out = self.network(self.torch.tensor([new]), past_key_values=self.cache, use_cache=True)
        self.cache, self.known = out.past_key_values, whole
        logits = out.logits[0, -1].numpy()
        return int(ids[logits[ids].argmax()])


@pytest.mark.parametrize(("name", "every"), [("small", 8), ("large", 24)])
def test_greedy_answers_of_a_model_satisfy_the_schema(name: str, every: int) -> None:
    """The likeliest allowed tokens of a real model make JSON that a validator accepts."""
    greedy = Greedy(grammar_tokenizers.example(name), name)
    for schema in list(SCHEMAS)[::every]:
        matcher = greedy.model.matcher("json", json.dumps(SCHEMAS[schema]))
        text = walk(greedy.model, matcher, greedy)
        try:
            check_json(text, SCHEMAS[schema])
        except Exception as error:
            raise AssertionError(f"{schema}: {text}") from error
