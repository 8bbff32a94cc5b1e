"""Synthetic prompts of a wished number of tokens, built from words whose cost the served tokenizer itself has told."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from fathom_loadtest.content.prompt import Prompt, seeded
from fathom_loadtest.scenario import Documents, TaskSpec

WORDS: Final = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school",
    "state", "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company",
    "system", "program", "question", "work", "night", "point", "home", "a",
)  # fmt: skip
"""Common English words; every prompt starts with the first one, unless it begins like others."""

_PLACES: Final = {word: place for place, word in enumerate(WORDS)}
_REPEATS: Final = 4


@dataclass(frozen=True, slots=True)
class WordCosts:
    """Tokens of the opening word alone (with whatever a template adds), and of each further word of WORDS."""

    opening: int
    words: tuple[float, ...]

    @classmethod
    def measure(cls, count_tokens: Callable[[Sequence[str]], list[int]]) -> "WordCosts":
        """Ask the server, through ``count_tokens``, how many tokens it counts for each of a list of texts."""
        texts = [" ".join([WORDS[0], *[word] * _REPEATS]) for word in WORDS]
        opening, *totals = count_tokens([WORDS[0], *texts])
        return cls(opening, tuple(max(total - opening, 1) / _REPEATS for total in totals))

    def compose(self, tokens: int, rng: random.Random) -> str:
        """Give a random text that costs ``tokens`` tokens, or as near as the words allow; never less than one word."""
        return " ".join([WORDS[0], *self.further(tokens - self.opening, rng)])

    def further(self, tokens: float, rng: random.Random) -> list[str]:
        """Give random words that cost ``tokens`` tokens behind others, or as near below as the words allow."""
        chosen = []
        dearest = max(self.words)
        while tokens >= 2 * dearest:  # many words at once: prompts are composed while answers are being timed
            many = rng.choices(range(len(WORDS)), k=int(tokens // dearest))
            chosen += [WORDS[place] for place in many]
            tokens -= sum(self.words[place] for place in many)
        while True:
            fitting = [word for word, cost in zip(WORDS, self.words, strict=True) if cost <= tokens + 1e-9]
            if not fitting:
                return chosen
            word = rng.choice(fitting)
            chosen.append(word)
            tokens -= self.words[_PLACES[word]]

    def cost(self, word: str) -> float:
        """Tokens of a word behind others."""
        return self.words[_PLACES[word]]


@dataclass(frozen=True, slots=True)
class SyntheticPrompts:
    """Random words of the task's ``input_tokens`` tokens; answers limited to its ``output_tokens``."""

    costs: WordCosts
    task: TaskSpec
    seed: int

    def prompt(self, phase: str, index: int, turn: int = 0) -> Prompt:
        """Return what turn ``turn`` of item ``index`` of a phase says."""
        assert self.task.input_tokens is not None  # noqa: S101 - the scenario was checked when built
        rng = seeded(self.seed, phase, self.task.label, index, turn)
        text = self._text(self.task.input_tokens.sample(rng), rng, opens=turn == 0)
        limit = None if self.task.output_tokens is None else self.task.output_tokens.sample(rng)
        return Prompt(text, max_tokens=limit, documents=self._documents(rng))

    def turns(self, phase: str, index: int) -> int:
        """Return the number of turns that the scenario draws."""
        if self.task.conversation is None:
            return 1
        return self.task.conversation.turns.sample(seeded(self.seed, phase, self.task.label, index, "turns"))

    def _text(self, tokens: int, rng: random.Random, *, opens: bool) -> str:
        shared = self.task.shared_prefix
        if not opens or shared is None or rng.random() >= shared.share:
            return self.costs.compose(tokens, rng)
        prefix = _prefix(self.costs, shared.tokens, self.seed, self.task.label, rng.randrange(shared.prefixes))
        left = float(tokens - self.costs.opening)
        kept = []
        for word, cost in prefix:
            if cost > left:
                break
            kept.append(word)
            left -= cost
        return " ".join([WORDS[0], *kept, *self.costs.further(left, rng)])

    def _documents(self, rng: random.Random) -> tuple[str, ...]:
        if self.task.task != "rerank":
            return ()
        documents = self.task.documents or Documents()
        length = documents.tokens or self.task.input_tokens
        assert length is not None  # noqa: S101 - as above
        return tuple(
            " ".join(self.costs.further(max(length.sample(rng), max(self.costs.words)), rng))
            for _ in range(documents.count)
        )


@lru_cache(maxsize=256)
def _prefix(costs: WordCosts, tokens: int, seed: int, label: str, number: int) -> tuple[tuple[str, float], ...]:
    """The words of a common beginning after the opening one, each with its cost."""
    words = costs.further(tokens - costs.opening, seeded(seed, label, "prefix", number))
    return tuple((word, costs.cost(word)) for word in words)
