"""Prompt lookup: what followed the last tokens when they stood in prompt or answer before.

Saxena 2023, "Prompt Lookup Decoding". Texts that repeat their prompt (extraction, editing, code) or themselves are
guessed well, and a guess costs microseconds.
"""

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from fathom_server.engine.speculation.draft_length import Acceptance, DraftLengths, SequenceRecord
from fathom_server.engine.speculator import DraftableSequence, SpeculationCounters

SHORTEST_MATCH: Final = 2
LONGEST_KEY: Final = 4
LONGEST_COUNTED: Final = 24
"""A match is followed back this far to tell how long it is; beyond, length says no more."""

_CLASS_OF_LENGTH: Final = (0, 0, 0, 1, 2, 2, 3, 3, 3, *[4] * 7, *[5] * (LONGEST_COUNTED - 15))
_FIRST_RATES: Final = (0.35, 0.45, 0.55, 0.65, 0.75, 0.85)
"""Of a class of match lengths, before anything was seen: how likely the next token is as it was then."""


@dataclass(frozen=True, slots=True)
class Match:
    """Tokens before ``position`` equal those at the end; ``length`` of them, counted up to ``LONGEST_COUNTED``."""

    position: int
    length: int


class NgramIndex:
    """Where each run of 2 to 4 tokens stood last in a list that only grows. O(1) a token, to add as to look up."""

    def __init__(self) -> None:
        self._after: list[dict[tuple[int, ...], int]] = [{} for _ in range(SHORTEST_MATCH, LONGEST_KEY + 1)]
        self._indexed = 0

    def extend(self, token_ids: Sequence[int]) -> None:
        """Take in the tokens that came since the last call. The last token's runs wait until one follows them."""
        begin, end = self._indexed, len(token_ids) - 1
        for size, after in enumerate(self._after, start=SHORTEST_MATCH):
            first = max(begin, size - 1)  # index of a run's last token
            if first < end:
                window = token_ids[first - size + 1 : end]
                runs = zip(*(window[offset:] for offset in range(size)), strict=False)
                after.update(zip(runs, range(first + 1, end + 1), strict=True))
        self._indexed = max(begin, end)

    def match(self, token_ids: Sequence[int]) -> Match | None:
        """The most recent place of the longest run (of at most 4) at the list's end that stood there before."""
        for size in range(min(LONGEST_KEY, len(token_ids)), SHORTEST_MATCH - 1, -1):
            position = self._after[size - SHORTEST_MATCH].get(tuple(token_ids[-size:]))
            if position is not None:
                return Match(position, _common_length(token_ids, position, size))
        return None


def _common_length(token_ids: Sequence[int], position: int, known: int) -> int:
    """How many tokens before ``position`` equal those at the end, of which ``known`` do."""
    length, most = known, min(LONGEST_COUNTED, position)
    while length < most and token_ids[position - 1 - length] == token_ids[-1 - length]:
        length += 1
    return length


def continuation(token_ids: Sequence[int], position: int, count: int) -> list[int]:
    """``count`` tokens from ``position`` on; past the end, the guess goes on from itself, as a loop does."""
    tokens = list(token_ids[position : position + count])
    period = len(token_ids) - position
    for index in range(len(tokens), count):
        tokens.append(tokens[index - period])
    return tokens


@dataclass(slots=True)
class _State:
    """What is known of a sequence: its runs, and the guess that was last made, right or wrong so far."""

    index: NgramIndex = field(default_factory=NgramIndex)
    record: SequenceRecord = field(default_factory=SequenceRecord)
    guess: list[int] = field(default_factory=list)
    guessed_at: int = 0
    match_length: int = 0


class PromptLookupSpeculator:
    """Proposes by prompt lookup, as many tokens as pay. See ``Speculator``.

    Every guess is held against the tokens that came, whether it was tried or not, so it costs nothing to learn when
    guessing begins to pay.
    """

    method: Final[Literal["prompt_lookup"]] = "prompt_lookup"

    def __init__(self, max_draft_tokens: int) -> None:
        self._most = max_draft_tokens
        self._states: dict[Hashable, _State] = {}
        self._acceptance = Acceptance(_FIRST_RATES)
        self._lengths = DraftLengths(learns_unasked=True)
        self._proposed = self._accepted = 0
        self._seconds = 0.0

    def propose(self, sequences: Sequence[DraftableSequence], room: Sequence[int]) -> list[list[int]]:
        """See ``Speculator.propose``."""
        begin = time.perf_counter()
        guesses, survivals = [], []
        for sequence, allowed in zip(sequences, room, strict=True):
            state = self._states.get(sequence.id)
            if state is None:
                state = self._states[sequence.id] = _State()
            guesses.append(self._guess(state, sequence.token_ids))
            survivals.append(self._survival(state, min(allowed, self._most)))
        lengths = self._lengths.choose(survivals).lengths
        self._seconds += time.perf_counter() - begin
        return [guess[:length] for guess, length in zip(guesses, lengths, strict=True)]

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
        if state is not None:  # answers that end with a guess that came true must count as well
            self._learn(state, sequence.token_ids)

    @property
    def counters(self) -> SpeculationCounters:
        """See ``Speculator.counters``."""
        return SpeculationCounters(self.method, self._proposed, self._accepted, self._seconds)

    def close(self) -> None:
        """See ``Speculator.close``."""
        self._states.clear()

    def _guess(self, state: _State, token_ids: Sequence[int]) -> list[int]:
        """Learn from the last guess, then make the next, as long as may ever be proposed."""
        self._learn(state, token_ids)
        state.index.extend(token_ids)
        match = state.index.match(token_ids)
        state.guessed_at = len(token_ids)
        if match is None:
            state.guess = []
        else:
            state.guess = continuation(token_ids, match.position, self._most)
            state.match_length = match.length
        return state.guess

    def _learn(self, state: _State, token_ids: Sequence[int]) -> None:
        """Hold the last guess against the tokens that came, whether it was tried or not."""
        came = token_ids[state.guessed_at : state.guessed_at + len(state.guess)]
        for depth, (guessed, token) in enumerate(zip(state.guess, came, strict=False)):
            self._acceptance.observe(_class_of(state.match_length + depth), guessed == token, state.record)
            if guessed != token:
                break

    def _survival(self, state: _State, most: int) -> list[float]:
        """How likely each of the first ``most`` guessed tokens is to be accepted, with all before it."""
        survival, probability = [], 1.0
        for depth in range(min(most, len(state.guess))):
            probability *= self._acceptance.rate(_class_of(state.match_length + depth), state.record)
            survival.append(probability)
        return survival


def _class_of(length: int) -> int:
    return _CLASS_OF_LENGTH[min(length, LONGEST_COUNTED)]
