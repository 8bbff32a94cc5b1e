"""Prompt sets are read strictly, and every prompt is repeatable."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom_loadtest.content.prompt import seeded
from fathom_loadtest.content.prompt_set import PromptSet, load_prompt_set
from fathom_loadtest.content.synthetic import WORDS, SyntheticPrompts, WordCosts
from fathom_loadtest.errors import PromptSetError
from fathom_loadtest.scenario import (
    Conversation,
    Documents,
    Fixed,
    Histogram,
    Length,
    Lognormal,
    Normal,
    SharedPrefix,
    Task,
    TaskSpec,
    Uniform,
)

TALK = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "One?"},
    {"from": "gpt", "value": "1"},
    {"from": "human", "value": "Two?"},
    {"from": "gpt", "value": "2"},
    {"from": "human", "value": "Three?"},
]


def load(path: Path, task: Task = "generate", seed: int = 0, **fields: Any) -> PromptSet:
    """Read a prompt set for a task."""
    return load_prompt_set(TaskSpec("chat", task, prompts=path, **fields), seed)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{prompt: 1}", "is not JSON"),
        (b'"text"', 'exactly one of "prompt", "messages", "query" and "conversations"'),
        (b'{"text": "x"}', 'exactly one of "prompt", "messages", "query" and "conversations"'),
        (b'{"prompt": "x", "messages": []}', 'exactly one of "prompt", "messages"'),
        (b'{"prompt": "x", "max_tokens": 0}', '"max_tokens" is 0; it must be a whole number'),
        (b'{"query": "x", "documents": ["a"]}', "has a query, which task chat cannot send; use task rerank"),
        (b'{"conversations": "x"}', '"conversations" must be a list'),
        (b'{"conversations": [{"from": "human"}]}', "turn 0 is {'from': 'human'}"),
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
    """Plain-text tasks refuse a conversation and name the task that takes it."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    with pytest.raises(PromptSetError, match=r"jsonl:1: .*use task chat"):
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
    prompts = load(path, output_tokens=Normal(100, 10))
    lengths = [prompts.prompt("stage 1", index).max_tokens or 0 for index in range(500)]
    assert abs(fmean(lengths) - 100) < 3
    assert 8 < pstdev(lengths) < 12


def test_a_prompt_may_bring_its_own_limit(tmp_path: Path) -> None:
    """max_tokens of a line holds, unless the scenario says otherwise."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "x", "max_tokens": 7}\n')
    assert load(path).prompt("stage 1", 0).max_tokens == 7
    assert load(path, output_tokens=Fixed(3)).prompt("stage 1", 0).max_tokens == 3


def test_queries_bring_their_documents(tmp_path: Path) -> None:
    """Task rerank reads a query and what it ranks, and refuses one without."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"query": "q", "documents": ["a", "b"]}\n')
    prompt = load(path, "rerank").prompt("stage 1", 0)
    assert (prompt.text, prompt.documents) == ("q", ("a", "b"))
    path.write_text('{"query": "q", "documents": []}\n')
    with pytest.raises(PromptSetError, match=r'jsonl:1: "documents" must be a list of at least one text'):
        load(path, "rerank")


@pytest.mark.parametrize("form", ["list", "lines"])
def test_sharegpts_form_is_read(tmp_path: Path, form: str) -> None:
    """Single requests say what the user says first; whole conversations say each of the user's turns."""
    path = tmp_path / "sharegpt.json"
    talks = [{"id": "a", "conversations": TALK}, {"id": "b", "conversations": []}, {"conversations": TALK[2:3]}]
    path.write_text(json.dumps(talks, indent=1) if form == "list" else "\n".join(map(json.dumps, talks)))
    single = load(path, "chat")
    assert len(single.entries) == 1
    assert single.prompt("stage 1", 0).as_messages() == [{"role": "user", "content": "One?"}]
    chats = load(path, "chat", conversation=Conversation(Fixed(9)))
    assert chats.turns("stage 1", 0) == 3
    said = [chats.prompt("stage 1", 0, turn).as_messages() for turn in range(3)]
    assert said == [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}],
        [{"role": "user", "content": "Two?"}],
        [{"role": "user", "content": "Three?"}],
    ]
    assert load(path, "chat", conversation=Conversation(Fixed(2))).turns("stage 1", 0) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[\n {"conversations": []},\n {"conversations": 5}\n]', r":3: .conversations. must be a list"),
        ('[\n {"conversations": []}\n {"conversations": []}\n]', r":3: is not JSON \(expecting ',' or '\]'\)"),
        ('[\n {"conversations": []},\n\n {"conversations": [}\n]', r":4: is not JSON"),
        ('[\n {"conversations": []},\n', r":3: is not JSON"),
        ("[]", r": holds no prompt"),
    ],
)
def test_a_malformed_list_is_refused_by_line(tmp_path: Path, text: str, complaint: str) -> None:
    """A file that is one JSON list still tells the line at which it goes wrong."""
    path = tmp_path / "sharegpt.json"
    path.write_text(text)
    with pytest.raises(PromptSetError, match=complaint):
        load(path, "chat")


def test_conversations_need_turns(tmp_path: Path) -> None:
    """A set of single prompts cannot be a set of conversations."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "x"}\n')
    with pytest.raises(PromptSetError, match="holds no conversation of two turns"):
        load(path, "chat", conversation=Conversation(Fixed(3)))


def count_by_pieces(piece: int, overhead: int) -> Callable[[str], int]:
    """A tokenizer that cuts words into pieces of so many letters and frames the text with some tokens."""

    def count(text: str) -> int:
        return overhead + sum(-(-len(word) // piece) for word in text.split())

    return count


def measured(count: Callable[[str], int]) -> WordCosts:
    """The words' costs by a tokenizer."""
    return WordCosts.measure(lambda texts: [count(text) for text in texts])


def synthetic(costs: WordCosts, tokens: Length, seed: int = 0, **fields: Any) -> SyntheticPrompts:
    """Synthetic prompts of a task."""
    task: Task = "chat" if "conversation" in fields else "rerank" if "documents" in fields else "generate"
    return SyntheticPrompts(costs, TaskSpec("chat", task, input_tokens=tokens, **fields), seed)


@given(piece=st.integers(1, 12), overhead=st.integers(0, 30), tokens=st.integers(40, 3000), seed=st.integers())
def test_synthetic_prompts_have_exactly_the_wished_tokens(piece: int, overhead: int, tokens: int, seed: int) -> None:
    """Whatever a word costs, texts are composed to the very token as long as a word of one token exists."""
    count = count_by_pieces(piece, overhead)
    prompts = synthetic(measured(count), Fixed(tokens), seed, output_tokens=Fixed(7))
    prompt = prompts.prompt("stage 1", 5)
    assert prompt.text is not None
    assert count(prompt.text) == tokens
    assert prompt.max_tokens == 7
    assert prompts.prompt("stage 1", 5) == prompt
    assert set(prompt.text.split()) <= set(WORDS)


def test_a_length_below_one_word_is_as_short_as_it_can_be() -> None:
    """A template that costs more than the wished length leaves a prompt of one word."""
    assert synthetic(measured(count_by_pieces(4, 50)), Fixed(8)).prompt("stage 1", 0).text == WORDS[0]


@pytest.mark.parametrize(
    "length",
    [
        Fixed(120),
        Normal(200, 25),
        Uniform(50, 150),
        Lognormal(200, 150),
        Histogram((10, 20, 100, 300), (1, 2, 1)),
    ],
    ids=lambda length: type(length).__name__,
)
def test_synthetic_lengths_follow_their_distribution(length: Length) -> None:
    """Mean and deviation are those that the distribution says it has, and no length is below 1."""
    count = count_by_pieces(3, 2)
    prompts = synthetic(measured(count), length, 1)
    lengths = [count(prompts.prompt("stage 1", index).text or "") for index in range(1500)]
    assert fmean(lengths) == pytest.approx(length.mean, rel=0.08)
    assert pstdev(lengths) == pytest.approx(length.stddev, rel=0.15, abs=0.01)
    drawn = [length.sample(seeded("x", number)) for number in range(1500)]
    assert min(drawn) >= 1


@given(mean=st.floats(1, 100), stddev=st.floats(0, 500), most=st.integers(1, 200), seed=st.integers())
def test_a_longest_length_is_kept(mean: float, stddev: float, most: int, seed: int) -> None:
    """What is drawn above the most is the most."""
    for length in (Normal(mean, stddev, most), Lognormal(mean, stddev, most)):
        assert 1 <= length.sample(seeded(seed)) <= most


@given(tokens=st.integers(60, 400), prefix=st.integers(5, 50), prefixes=st.integers(1, 5), seed=st.integers())
def test_prompts_share_their_beginnings(tokens: int, prefix: int, prefixes: int, seed: int) -> None:
    """Prompts begin with one of so many prefixes of the wished tokens, are as long as wished, and then differ."""
    count = count_by_pieces(20, 3)
    shared = SharedPrefix(prefix, prefixes=prefixes)
    prompts = synthetic(measured(count), Fixed(tokens), seed, shared_prefix=shared)
    texts = [prompts.prompt("stage 1", index).text or "" for index in range(40)]
    assert {count(text) for text in texts} == {tokens}
    words = prefix - 3
    assert len({tuple(text.split()[: max(words, 1)]) for text in texts}) <= prefixes
    assert len(set(texts)) == 40


def test_a_share_of_prompts_begins_alike() -> None:
    """With a share of a half, about half of the prompts have the prefix."""
    prompts = synthetic(measured(count_by_pieces(20, 0)), Fixed(60), shared_prefix=SharedPrefix(30, share=0.5))
    beginnings = [tuple((prompts.prompt("stage 1", index).text or "").split()[:30]) for index in range(400)]
    most = max(beginnings.count(beginning) for beginning in set(beginnings))
    assert 160 < most < 240


def test_turns_of_a_conversation_are_drawn_and_differ() -> None:
    """A conversation has as many turns as its distribution says, each with its own question."""
    conversation = Conversation(Uniform(2, 4))
    prompts = synthetic(measured(count_by_pieces(4, 0)), Fixed(30), conversation=conversation)
    turns = [prompts.turns("stage 1", index) for index in range(100)]
    assert set(turns) == {2, 3, 4}
    assert turns == [prompts.turns("stage 1", index) for index in range(100)]
    assert len({prompts.prompt("stage 1", 0, turn).text for turn in range(4)}) == 4


def test_documents_have_the_wished_number_and_length() -> None:
    """A reranking request ranks so many documents of so many tokens."""
    count = count_by_pieces(20, 0)
    documents = Documents(5, Fixed(12))
    prompt = synthetic(measured(count), Fixed(9), documents=documents).prompt("stage 1", 0)
    assert [count(document) for document in prompt.documents] == [12] * 5
    assert count(prompt.text or "") == 9
