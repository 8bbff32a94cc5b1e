"""Prompt sets are read strictly, and every prompt is repeatable."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_loadtest.errors import PromptSetError
from fathom_loadtest.prompts import PromptSet, load_prompt_set
from fathom_loadtest.scenario import Length, Scenario, Task
from fathom_loadtest.synthetic import WORDS, SyntheticPrompts, WordCosts


def load(path: Path, task: Task = "generate", **fields: Any) -> PromptSet:
    """Read a prompt set for a task."""
    return load_prompt_set(Scenario("localhost:8001", "chat", task, (1,), requests=1, prompt_file=path, **fields))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{prompt: 1}", "is not JSON"),
        (b'"text"', 'exactly one of "prompt" and "messages"'),
        (b'{"text": "x"}', 'exactly one of "prompt" and "messages"'),
        (b'{"prompt": "x", "messages": []}', 'exactly one of "prompt" and "messages"'),
        (b'{"prompt": "x", "temprature": 1}', "unknown field 'temprature'"),
        (b'{"prompt": ""}', "must be a text that is not empty"),
        (b'{"prompt": 3}', '"prompt" is 3'),
        (b'{"prompt": "\xff"}', "is not UTF-8"),
        (b'{"messages": []}', "must be a list of at least one"),
        (b'{"messages": ["hi"]}', "message 0 is 'hi'"),
        (b'{"messages": [{"role": "user", "content": "a"}, {"role": "user"}]}', "message 1 is"),
        (b'{"messages": [{"role": "user", "content": 1}]}', "message 0 is"),
    ],
)
def test_a_malformed_line_is_refused_by_file_and_number(tmp_path: Path, line: bytes, complaint: str) -> None:
    """The message names the file, the line (empty lines count) and what is wrong."""
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"prompt": "fine"}\n\n' + line + b"\n")
    with pytest.raises(PromptSetError) as caught:
        load(path, "chat")
    assert str(caught.value).startswith(f"{path}:3: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize("task", ["generate", "embed"])
def test_messages_need_the_chat_task(tmp_path: Path, task: Task) -> None:
    """Plain-text tasks refuse a conversation and name the flag."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    with pytest.raises(PromptSetError, match=r"jsonl:1: .*--task chat"):
        load(path, task)
    assert load(path, "chat").prompt("stage 1", 0).as_messages() == [{"role": "user", "content": "hi"}]


def test_a_file_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    """Both messages name the file."""
    with pytest.raises(PromptSetError, match=r"nothing\.jsonl: cannot be read \(No such file"):
        load(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(PromptSetError, match=r"empty\.jsonl: holds no prompt"):
        load(tmp_path / "empty.jsonl")


def test_a_prompt_set_is_used_evenly_and_repeatably(tmp_path: Path) -> None:
    """Each turn through the file uses every prompt once, in an order that seed, phase and turn decide."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"prompt {number}"}) + "\n" for number in range(20)))
    prompts = load(path, seed=3)
    turns = [[prompts.prompt("stage 1", turn * 20 + place).text for place in range(20)] for turn in range(2)]
    assert set(turns[0]) == set(turns[1]) == {f"prompt {number}" for number in range(20)}
    assert turns[0] != turns[1]
    assert [load(path, seed=3).prompt("stage 1", place).text for place in range(20)] == turns[0]
    assert [load(path, seed=4).prompt("stage 1", place).text for place in range(20)] != turns[0]
    assert prompts.prompt("stage 1", 0).max_tokens is None


def test_a_prompt_sets_answers_are_limited_as_asked(tmp_path: Path) -> None:
    """The mean of output_tokens becomes max_tokens, spread as its deviation says."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "x"}\n')
    prompts = load(path, output_tokens=Length(100, 10))
    lengths = [prompts.prompt("stage 1", index).max_tokens or 0 for index in range(500)]
    assert abs(fmean(lengths) - 100) < 3
    assert 8 < pstdev(lengths) < 12


def count_by_pieces(piece: int, overhead: int) -> Callable[[str], int]:
    """A tokenizer that cuts words into pieces of so many letters and frames the text with some tokens."""

    def count(text: str) -> int:
        return overhead + sum(-(-len(word) // piece) for word in text.split())

    return count


def measured(count: Callable[[str], int]) -> WordCosts:
    """The words' costs by a tokenizer."""
    return WordCosts.measure(lambda texts: [count(text) for text in texts])


@given(piece=st.integers(1, 12), overhead=st.integers(0, 30), tokens=st.integers(40, 3000), seed=st.integers())
def test_synthetic_prompts_have_exactly_the_wished_tokens(piece: int, overhead: int, tokens: int, seed: int) -> None:
    """Whatever a word costs, texts are composed to the very token as long as a word of one token exists."""
    count = count_by_pieces(piece, overhead)
    prompts = SyntheticPrompts(measured(count), Length(tokens), Length(7), seed)
    prompt = prompts.prompt("stage 1", 5)
    assert prompt.text is not None
    assert count(prompt.text) == tokens
    assert prompt.max_tokens == 7
    assert prompts.prompt("stage 1", 5) == prompt
    assert set(prompt.text.split()) <= set(WORDS)


def test_a_length_below_one_word_is_as_short_as_it_can_be() -> None:
    """A template that costs more than the wished length leaves a prompt of one word."""
    prompts = SyntheticPrompts(measured(count_by_pieces(4, 50)), Length(8), None, 0)
    assert prompts.prompt("stage 1", 0).text == WORDS[0]


def test_synthetic_lengths_follow_their_distribution() -> None:
    """Mean and deviation are those that were asked for."""
    count = count_by_pieces(3, 2)
    prompts = SyntheticPrompts(measured(count), Length(200, 25), None, 1)
    lengths = [count(prompts.prompt("stage 1", index).text or "") for index in range(600)]
    assert abs(fmean(lengths) - 200) < 5
    assert 21 < pstdev(lengths) < 29
