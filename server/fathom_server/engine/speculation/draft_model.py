"""Drafting with a smaller model of the same tokenizer.

The small model draws as the sampler will: from its own logits, with the same parameters and, for the same position, the
same random number. Where both models hold much the same distribution, the same number falls on the same token, so
drafts come true at high temperatures almost as often as the distributions overlap.
"""

import logging
import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from fathom_server.engine.distribution import draw
from fathom_server.engine.runner.base import Runner, StepRow
from fathom_server.engine.sampler import SequenceSampler
from fathom_server.engine.settings import EngineSettings
from fathom_server.engine.speculation.draft_cache import CachedTokens, DraftCache
from fathom_server.engine.speculation.draft_length import Acceptance, Choice, DraftLengths, SequenceRecord
from fathom_server.engine.speculation.step_costs import PassCosts
from fathom_server.engine.speculator import DraftableSequence, SpeculationCounters

Logits = npt.NDArray[np.float32]

logger: Final = logging.getLogger("fathom.engine")

CATCH_UP_TOKENS: Final = 256
"""Tokens not seen yet that the draft model computes before one step at most: it reads prompts piece by piece."""

_CONFIDENCES: Final = 8
_FIRST_RATES: Final = (0.7, 0.6)  # of greedy and of sampled sequences, whatever the draft model's confidence


@dataclass(slots=True)
class _State:
    """What is known of a sequence: how its drafts did, and those of the last step with their confidences."""

    sampler: SequenceSampler
    overall: SequenceRecord = field(default_factory=SequenceRecord)
    by_confidence: SequenceRecord = field(default_factory=SequenceRecord)
    drafts: list[int] = field(default_factory=list)
    confidences: list[int] = field(default_factory=list)
    drafted_at: int = 0
    checked: int = 0
    is_readable: bool = True


@dataclass(slots=True)
class _Drafting:
    """One sequence in a round of drafting: tokens drafted, and how likely each is to come true with all before it."""

    place: int
    sequence: DraftableSequence
    state: _State
    cached: CachedTokens
    most: int
    survival: list[float] = field(default_factory=list)


class DraftModelSpeculator:
    """Proposes what a smaller model would say, as many tokens as pay. See ``Speculator``.

    ``runner`` is the draft model's, with a cache of its own; ``draft`` and ``target`` are the two models' settings. A
    fault of the draft model is logged and ends the drafting, nothing else.
    """

    method: Final[Literal["draft"]] = "draft"

    def __init__(self, runner: Runner, draft: EngineSettings, target: EngineSettings, max_draft_tokens: int) -> None:
        self._runner = runner
        self._draft_vocabulary = draft.graph.vocabulary
        self._vocabulary = target.graph.vocabulary
        self._context = draft.limits.max_context
        self._eos_token_ids = target.eos_token_ids
        self._most = max_draft_tokens
        self._cache = DraftCache(runner.geometry)
        self._states: dict[Hashable, _State] = {}
        self._overall = Acceptance(_FIRST_RATES)
        self._by_confidence = Acceptance(
            [(at + 0.5) / _CONFIDENCES for _ in _FIRST_RATES for at in range(_CONFIDENCES)]
        )
        self._lengths = DraftLengths(learns_unasked=False)
        self._passes = PassCosts()
        self._proposed = self._accepted = 0
        self._seconds = 0.0
        self._is_broken = False

    def propose(self, sequences: Sequence[DraftableSequence], room: Sequence[int]) -> list[list[int]]:
        """See ``Speculator.propose``."""
        if self._is_broken or self._lengths.is_resting(len(sequences)):
            return [[] for _ in sequences]
        begin = time.perf_counter()
        try:
            return self._propose(sequences, room, begin)
        except Exception:
            logger.exception("the draft model failed; requests go on without it until the model is loaded again")
            self._is_broken = True
            self.close()
            return [[] for _ in sequences]
        finally:
            seconds = time.perf_counter() - begin
            self._seconds += seconds
            self._lengths.charge(seconds)

    def observe(self, sequence: DraftableSequence, proposed: int, accepted: int) -> None:
        """See ``Speculator.observe``."""
        self._proposed += proposed
        self._accepted += accepted

    def observe_step(self, rows_tokens: int, seconds: float) -> None:
        """See ``Speculator.observe_step``."""
        self._lengths.observe_step(rows_tokens, seconds)

    def forget(self, sequence: DraftableSequence) -> None:
        """See ``Speculator.forget``."""
        state = self._states.pop(sequence.id, None)
        if state is not None:  # answers that end with a draft that came true must count as well
            self._learn(state, sequence.token_ids)
        self._cache.forget(sequence.id)

    @property
    def counters(self) -> SpeculationCounters:
        """See ``Speculator.counters``."""
        return SpeculationCounters(self.method, self._proposed, self._accepted, self._seconds)

    def close(self) -> None:
        """See ``Speculator.close``."""
        self._states.clear()
        self._cache.clear()
        close = getattr(self._runner, "close", None)
        if close is not None:
            close()

    def _propose(self, sequences: Sequence[DraftableSequence], room: Sequence[int], begin: float) -> list[list[int]]:
        states = [self._settled(sequence) for sequence in sequences]
        survivals = [self._promise(*each) for each in zip(sequences, states, room, strict=True)]
        choice = self._lengths.choose(survivals, self._passes.seconds)
        drafting = self._begin(sequences, states, survivals, choice)
        proposals: list[list[int]] = [[] for _ in sequences]
        if drafting:
            self._draft(drafting, choice.tokens_per_second, self._lengths.costs.each(len(sequences)), begin)
            for one in drafting:
                proposals[one.place] = one.state.drafts[: len(one.survival)]
        self._lengths.plan(len(sequences), sum(map(len, proposals)))
        return proposals

    def _settled(self, sequence: DraftableSequence) -> _State:
        """A sequence's state, after learning from what became of its last drafts."""
        token_ids = sequence.token_ids
        state = self._states.get(sequence.id)
        if state is None:
            prompt = token_ids[: sequence.prompt_tokens]
            sampler = SequenceSampler(sequence.sampling, prompt, self._vocabulary, self._eos_token_ids, 0)
            state = self._states[sequence.id] = _State(sampler)
        self._learn(state, token_ids)
        self._cache.of(sequence.id).settle(token_ids)
        for token in token_ids[sequence.prompt_tokens + state.sampler.position :]:
            state.sampler.append(token)
        if self._draft_vocabulary < self._vocabulary and state.is_readable:
            state.is_readable = max(token_ids[state.checked :]) < self._draft_vocabulary
            state.checked = len(token_ids) - 1
        return state

    def _learn(self, state: _State, token_ids: Sequence[int]) -> None:
        """Take in what became of the last drafts."""
        came = token_ids[state.drafted_at : state.drafted_at + len(state.drafts)]
        for confidence, drafted, token in zip(state.confidences, state.drafts, came, strict=False):
            accepted = drafted == token
            self._by_confidence.observe(confidence, accepted, state.by_confidence)
            self._overall.observe(_kind(state), accepted, state.overall)
            if not accepted:
                break
        state.drafts, state.confidences = [], []

    def _promise(self, sequence: DraftableSequence, state: _State, room: int) -> list[float]:
        """How likely each of the drafts that may be made is to come true, judged by those before."""
        most = min(room, self._most, self._context - len(sequence.token_ids))
        if not state.is_readable:
            return []
        rate = self._overall.rate(_kind(state), state.overall)
        return [rate**depth for depth in range(1, most + 1)]

    def _begin(
        self,
        sequences: Sequence[DraftableSequence],
        states: Sequence[_State],
        survivals: Sequence[Sequence[float]],
        choice: Choice,
    ) -> list[_Drafting]:
        """Who drafts now, each with blocks; who still has much to read reads a piece of it instead."""
        chosen = [place for place, length in enumerate(choice.lengths) if length]
        needed = {sequences[place].id for place in chosen}
        drafting, reading, budget = [], [], CATCH_UP_TOKENS
        for place in sorted(chosen, key=lambda place: self._unread(sequences[place])):
            sequence = sequences[place]
            cached, unread = self._cache.of(sequence.id), self._unread(sequence)
            most = len(survivals[place]) if choice.tokens_per_second else choice.lengths[place]
            if unread <= budget:
                if self._cache.reserve(cached, len(sequence.token_ids) + most, needed):
                    drafting.append(_Drafting(place, sequence, states[place], cached, most))
                    budget -= unread
            elif budget and self._cache.reserve(cached, cached.computed + budget, needed):
                token_ids = sequence.token_ids[cached.computed : cached.computed + budget]
                reading.append(StepRow(cached.blocks, cached.computed, token_ids, 0))
                cached.computed += budget
                budget = 0
        if reading:
            self._runner.step(reading)
        return drafting

    def _unread(self, sequence: DraftableSequence) -> int:
        return len(sequence.token_ids) - self._cache.of(sequence.id).computed

    def _draft(self, drafting: Sequence[_Drafting], rate: float, verifying: float, begin: float) -> None:
        """Draft token after token for all at once, each for as long as another is worth its time.

        A guess that comes true with probability S is worth S tokens, and must bring them at ``rate`` a second or more;
        its trial takes ``verifying`` seconds. The first pass is charged with all that was done since ``begin``.
        """
        active, depth = list(drafting), 0
        rows = [self._first_row(one) for one in active]
        while active:
            logits = self._fitted(self._runner.step(rows))
            active = [one for one, row in zip(active, logits, strict=True) if self._take(one, row)]
            if all(len(row.token_ids) <= 2 for row in rows):
                self._passes.observe(depth, len(rows), time.perf_counter() - begin)
            begin, depth = time.perf_counter(), depth + 1
            for one in active:
                if one.survival[-1] < rate * verifying:  # its drafting is paid for, but not even its trial pays
                    one.survival.pop()
                    one.most = 0
            another = verifying + self._passes.seconds(depth, len(active)) / max(1, len(active))
            active = [one for one in active if depth < one.most and self._next_survival(one) >= rate * another]
            for one in active:
                one.cached.drafted.append(one.state.drafts[-1])
            rows = [StepRow(one.cached.blocks, one.cached.length - 1, one.state.drafts[-1:], 1) for one in active]

    @staticmethod
    def _first_row(one: _Drafting) -> StepRow:
        """Everything that the draft model has not computed yet."""
        token_ids = one.sequence.token_ids
        past, one.cached.computed = one.cached.computed, len(token_ids)
        one.state.drafted_at = len(token_ids)
        return StepRow(one.cached.blocks, past, token_ids[past:], 1)

    def _take(self, one: _Drafting, logits: Logits) -> bool:
        """Draw a draft from a row of logits, float32 [vocabulary]; tells if there is one."""
        state, sampling = one.state, one.sequence.sampling
        depth = len(state.drafts)
        scores = state.sampler.process(logits, None)  # penalties as of the answer's last certain token
        best = int(scores.argmax())
        if not math.isfinite(scores[best]):
            return False
        token, temperature = best, sampling.temperature or 1.0
        if sampling.temperature > 0.0:
            position = len(one.sequence.token_ids) - one.sequence.prompt_tokens + depth
            token = draw(scores, sampling, one.sequence.uniform(position))
        weights = np.exp((scores - scores[best]) * np.float32(1.0 / temperature))
        probability = float(weights[token] / weights.sum())
        confidence = min(_CONFIDENCES - 1, int(probability * _CONFIDENCES)) + _CONFIDENCES * _kind(state)
        state.drafts.append(token)
        state.confidences.append(confidence)
        before = one.survival[-1] if one.survival else 1.0
        one.survival.append(before * self._by_confidence.rate(confidence, state.by_confidence))
        return True

    def _next_survival(self, one: _Drafting) -> float:
        return one.survival[-1] * self._overall.rate(_kind(one.state), one.state.overall)

    def _fitted(self, logits: Logits) -> Logits:
        """Logits of the target's vocabulary: models of one tokenizer may pad theirs to different sizes."""
        missing = self._vocabulary - self._draft_vocabulary
        if missing > 0:
            return np.pad(logits, ((0, 0), (0, missing)), constant_values=-np.inf)
        return logits[:, : self._vocabulary]


def _kind(state: _State) -> int:
    """0 for a greedy sequence, 1 for a sampled one: their drafts come true differently often."""
    return int(state.sampler.sampling.temperature > 0.0)
