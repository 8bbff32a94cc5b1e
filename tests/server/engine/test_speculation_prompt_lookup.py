"""Prompt lookup: the same guesses as a search through the whole text, at a cost that does not grow with it."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.speculation.prompt_lookup import (
    LONGEST_COUNTED,
    LONGEST_KEY,
    SHORTEST_MATCH,
    Match,
    NgramIndex,
    PromptLookupSpeculator,
    continuation,
)


@dataclass(eq=False)
class Text:
    """A sequence that says what it is told to."""

    id: int
    token_ids: list[int]
    prompt_tokens: int
    sampling: SamplingParameters = field(default_factory=SamplingParameters)

    def uniform(self, position: int) -> float:
        return 0.5


def naive_match(token_ids: list[int]) -> Match | None:
    """The definition: of the longest suffix of at most 4 tokens that stood before, the last such place."""
    end = len(token_ids)
    for size in range(min(LONGEST_KEY, end), SHORTEST_MATCH - 1, -1):
        for position in range(end - 1, size - 1, -1):
            if token_ids[position - size : position] == token_ids[end - size :]:
                length = size
                while (
                    length < min(LONGEST_COUNTED, position)
                    and token_ids[position - length - 1] == token_ids[end - length - 1]
                ):
                    length += 1
                return Match(position, length)
    return None


def naive_continuation(token_ids: list[int], position: int, count: int) -> list[int]:
    """Copy one token after another behind the list itself, as Lempel and Ziv's decoder does."""
    grown = list(token_ids)
    for offset in range(count):
        grown.append(grown[position + offset])
    return grown[len(token_ids) :]


@settings(deadline=None, max_examples=300)
@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=80),
    pieces=st.lists(st.integers(1, 9), min_size=1, max_size=80),
    count=st.integers(0, 12),
)
def test_matches_are_those_of_a_search_through_everything(tokens: list[int], pieces: list[int], count: int) -> None:
    """However the list grows, in one piece or by single tokens, the index finds what a full search finds."""
    index, end = NgramIndex(), 0
    for piece in pieces:
        end = min(end + piece, len(tokens))
        grown = tokens[:end]
        index.extend(grown)
        found = index.match(grown)
        assert found == naive_match(grown)
        if found is not None:
            assert continuation(grown, found.position, count) == naive_continuation(grown, found.position, count)


def run(speculator: PromptLookupSpeculator, text: Text, answer: list[int], token_seconds: float = 0.02) -> list[int]:
    """Let an answer come true step by step, each a second long and a bit; returns how many tokens each tried."""
    tried, at = [], 0
    while at < len(answer):
        (drafts,) = speculator.propose([text], [len(answer) - at - 1])
        accepted = 0
        while accepted < len(drafts) and drafts[accepted] == answer[at + accepted]:
            accepted += 1
        speculator.observe_step(1 + len(drafts), 1.0 + token_seconds * len(drafts))
        if drafts:
            speculator.observe(text, len(drafts), accepted)
        text.token_ids.extend(answer[at : at + accepted + 1])
        at += accepted + 1
        tried.append(len(drafts))
    return tried


def test_copying_is_guessed_and_noise_is_left_alone() -> None:
    """An answer that copies its prompt comes many tokens a step; one that repeats nothing is hardly ever guessed."""
    import random

    source = random.Random(4)
    prompt = [source.randrange(1000) for _ in range(300)]
    speculator = PromptLookupSpeculator(max_draft_tokens=8)
    steps = run(speculator, Text(1, prompt.copy(), 300), prompt[40:240])
    assert len(steps) < 200 / 4
    assert speculator.counters.acceptance > 0.8
    noise = [source.randrange(12) for _ in range(2000)]
    before = speculator.counters.proposed_tokens
    steps = run(speculator, Text(2, [source.randrange(12) for _ in range(300)], 300), noise, token_seconds=0.3)
    assert speculator.counters.proposed_tokens - before < 200
    assert sum(steps[1000:]) < 20
    steps = run(speculator, Text(3, prompt.copy(), 300), prompt[40:240])
    assert len(steps) < 200 / 3, "it comes back"


def test_a_loop_is_guessed_beyond_its_own_end() -> None:
    """A text that repeats two tokens is guessed for as many tokens as are allowed."""
    speculator = PromptLookupSpeculator(max_draft_tokens=6)
    text = Text(1, [7, 8, 9, 5, 6, 5, 6, 5], 3)
    steps = run(speculator, text, [6, 5] * 30)
    assert max(steps) == 6
    assert text.token_ids[-4:] == [6, 5, 6, 5]


def test_room_is_kept_and_sequences_are_forgotten() -> None:
    """Nothing is proposed beyond the room that is left, and nothing is held for a sequence that went."""
    speculator = PromptLookupSpeculator(max_draft_tokens=8)
    texts = [Text(number, [1, 2, 3, 4, 1, 2, 3], 7) for number in range(3)]
    speculator.propose(texts, [0, 1, 8])
    speculator.observe_step(3, 1.0)
    proposals = speculator.propose(texts, [0, 1, 8])
    assert proposals[0] == []
    assert proposals[1] == [4]
    assert 1 <= len(proposals[2]) <= 8
    assert proposals[2] == [4, 1, 2, 3, 4, 1, 2, 3][: len(proposals[2])]
    for text in texts:
        speculator.forget(text)
    assert not speculator._states
    assert speculator.propose([], []) == []
