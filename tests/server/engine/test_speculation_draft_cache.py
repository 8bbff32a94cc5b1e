"""The draft model's cache: whatever sequences do, it reads what they say, and no block is lost or held twice."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fathom_server.engine.runner.base import CacheGeometry, StepRow
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.settings import EngineLimits, EngineSettings, GraphDescription
from fathom_server.engine.speculation.draft_cache import DraftCache
from fathom_server.engine.speculation.draft_model import DraftModelSpeculator

VOCABULARY = 12
CONTEXT = 40


class TokenCache:
    """A model whose keys and values are the tokens themselves, and whose next token is a hash of all before it.

    Its blocks are memory that every sequence shares, so a token that is read from the wrong place, was never written
    or was overwritten changes what it says. ``read`` is what it found for each row of the last step.
    """

    def __init__(self, geometry: CacheGeometry) -> None:
        self.geometry = geometry
        self.memory = np.full((geometry.blocks, geometry.block_tokens), -1, dtype=np.int64)
        self.read: list[list[int]] = []

    def step(self, rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
        self.read = []
        held = [block for row in rows for block in row.blocks]
        assert len(held) == len(set(held)), "two sequences hold one block"
        logits: list[npt.NDArray[np.float32]] = []
        for row in rows:
            assert row.token_ids
            for offset, token in enumerate(row.token_ids):
                block, place = divmod(row.past + offset, self.geometry.block_tokens)
                self.memory[row.blocks[block], place] = token
            end = row.past + len(row.token_ids)
            text = self.memory[list(row.blocks)].reshape(-1)[:end].tolist()
            self.read.append(text)
            logits.extend(next_logits(text[: at + 1]) for at in range(end - row.logits, end))
        return np.array(logits, dtype=np.float32).reshape(len(logits), VOCABULARY)


def next_logits(text: Sequence[int]) -> npt.NDArray[np.float32]:
    """Logits that depend on every token so far."""
    logits = np.zeros(VOCABULARY, dtype=np.float32)
    logits[hash(tuple(text)) % VOCABULARY] = 9.0
    return logits


@dataclass(eq=False)
class Text:
    id: int
    token_ids: list[int]
    prompt_tokens: int
    sampling: SamplingParameters = field(default_factory=SamplingParameters)

    def uniform(self, position: int) -> float:
        return 0.5


GEOMETRIES = {
    "paged, ample": CacheGeometry(64, 4, shareable=True),
    "paged, short of blocks": CacheGeometry(14, 4, shareable=True),
    "slots": CacheGeometry(3, CONTEXT, shareable=False),
}


class Drafting(RuleBasedStateMachine):
    """Sequences that begin, go on, pause, are preempted and end at random, with a target that is often of one mind."""

    texts: list[Text]

    @initialize(form=st.sampled_from(sorted(GEOMETRIES)), most=st.integers(1, 5))
    def begin(self, form: str, most: int) -> None:
        graph = GraphDescription("cpu", "fp32", 1, 1, 8, VOCABULARY, CONTEXT)
        settings = EngineSettings(graph, EngineLimits(max_batch=3, max_context=CONTEXT))
        self.runner = TokenCache(GEOMETRIES[form])
        self.most = most
        self.speculator = DraftModelSpeculator(self.runner, settings, settings, most)
        self.texts, self.waiting, self.number = [], [], 0

    @rule(prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=CONTEXT - 4))
    def join(self, prompt: list[int]) -> None:
        self.number += 1
        self.texts.append(Text(self.number, [*prompt, 0], len(prompt)))

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), steps=st.integers(1, 12))
    def go_on(self, data: st.DataObject, steps: int) -> None:
        """Steps in which drafts come true as far as the target, here the same hash, is not told to say otherwise."""
        for _ in range(steps):
            chosen = [text for text in self.texts if len(text.token_ids) < CONTEXT]
            room = [min(self.most + 1, CONTEXT - len(text.token_ids) - 1) for text in chosen]
            proposals = self.speculator.propose(chosen, room)
            assert len(proposals) == len(chosen)
            drafts = sum(map(len, proposals))
            for text, tokens, most in zip(chosen, proposals, room, strict=True):
                assert len(tokens) <= min(most, self.most)
                grown = list(text.token_ids)
                for token in tokens:
                    assert token == int(next_logits(grown).argmax()), "the draft model read something else"
                    grown.append(token)
            self.speculator.observe_step(len(chosen) + drafts, 1.0 + 0.01 * drafts)
            for text, tokens in zip(chosen, proposals, strict=True):
                accepted = min(
                    data.draw(st.integers(0, self.most), label="accepted"), len(tokens)
                )  # drafts hang on a clock
                text.token_ids += tokens[:accepted]
                text.token_ids.append(int(next_logits(text.token_ids).argmax() + (accepted < len(tokens))) % VOCABULARY)
                if tokens:
                    self.speculator.observe(text, len(tokens), accepted)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def propose_in_vain(self, data: st.DataObject) -> None:
        """A step that was planned and never ran, as when a sequence is preempted between."""
        chosen = [text for text in self.texts if len(text.token_ids) < CONTEXT]
        self.speculator.propose(chosen, [CONTEXT - len(text.token_ids) - 1 for text in chosen])

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), forgotten=st.booleans())
    def pause(self, data: st.DataObject, forgotten: bool) -> None:
        text = data.draw(st.sampled_from(self.texts))
        self.texts.remove(text)
        self.waiting.append(text)
        if forgotten:
            self.speculator.forget(text)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        text = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(text)
        self.texts.append(text)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        text = data.draw(st.sampled_from(self.texts))
        self.texts.remove(text)
        self.speculator.forget(text)

    @invariant()
    def every_block_is_held_once_or_free(self) -> None:
        cache = self.speculator._cache
        held = [block for cached in cache._held.values() for block in cached.blocks]
        assert len(held) == len(set(held)) == cache.pool.held
        known = {text.id for text in (*self.texts, *self.waiting)}
        assert set(cache._held) <= known
        assert set(self.speculator._states) <= known
        assert not self.speculator._is_broken

    def teardown(self) -> None:
        for text in (*self.texts, *self.waiting):
            self.speculator.forget(text)
        assert self.speculator._cache.pool.held == 0


TestDrafting = Drafting.TestCase
TestDrafting.settings = hypothesis_settings(deadline=None, max_examples=60, stateful_step_count=40)


def test_a_long_prompt_is_read_piece_by_piece() -> None:
    """A prompt of a thousand tokens is read over several steps, none of which computes more than its share."""
    graph = GraphDescription("cpu", "fp32", 1, 1, 8, VOCABULARY, 2048)
    settings = EngineSettings(graph, EngineLimits(max_batch=3, max_context=2048))
    runner = TokenCache(CacheGeometry(200, 16, shareable=True))
    largest = 0
    plain_step = runner.step

    def step(rows: Sequence[StepRow]) -> npt.NDArray[np.float32]:
        nonlocal largest
        largest = max(largest, sum(len(row.token_ids) for row in rows))
        return plain_step(rows)

    runner.step = step  # type: ignore[method-assign]
    speculator = DraftModelSpeculator(runner, settings, settings, 4)
    texts = [Text(number, [number] * 1000, 999) for number in range(2)]
    proposals: list[list[int]] = []
    for _ in range(20):
        proposals = speculator.propose(texts, [100, 100])
        speculator.observe_step(2 + sum(map(len, proposals)), 1.0)
        for text, tokens in zip(texts, proposals, strict=True):
            text.token_ids.append(tokens[0] if tokens else int(next_logits(text.token_ids).argmax()))
    assert all(proposals)
    assert 200 <= largest <= 256


@pytest.mark.parametrize("tokens", [1, 16, 17, 64])
def test_a_sequence_gets_blocks_for_all_its_tokens(tokens: int) -> None:
    """As many as its tokens need, taken from who was not used for longest, and never from who is needed."""
    cache = DraftCache(CacheGeometry(4, 16, shareable=True))
    others = [cache.of(key) for key in ("a", "b")]
    assert all(cache.reserve(other, 16, ()) for other in others)
    wanted = cache.of("c")
    assert cache.reserve(wanted, tokens, {"b", "c"}) == (tokens <= 48)
    if tokens <= 48:
        assert len(wanted.blocks) == -(-tokens // 16)
    assert len(others[1].blocks) == 1
    assert not cache.reserve(wanted, 65, ())
    cache.clear()
    assert cache.pool.held == 0
