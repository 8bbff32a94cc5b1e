"""Synthetic prompts of a wished number of tokens, built from words whose cost the served tokenizer itself has told."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fathom_loadtest.prompts import Prompt, sampled_length, seeded
from fathom_loadtest.scenario import Length

WORDS: Final = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school",
    "state", "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company",
    "system", "program", "question", "work", "night", "point", "home", "a",
)  # fmt: skip
"""Common English words; every prompt starts with the first one."""

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
        chosen = [WORDS[0]]
        left = float(tokens - self.opening)
        dearest = max(self.words)
        while left >= 2 * dearest:  # many words at once: prompts are composed while answers are being timed
            many = rng.choices(range(len(WORDS)), k=int(left // dearest))
            chosen += [WORDS[place] for place in many]
            left -= sum(self.words[place] for place in many)
        while True:
            fitting = [word for word, cost in zip(WORDS, self.words, strict=True) if cost <= left + 1e-9]
            if not fitting:
                return " ".join(chosen)
            word = rng.choice(fitting)
            chosen.append(word)
            left -= self.words[WORDS.index(word)]


@dataclass(frozen=True, slots=True)
class SyntheticPrompts:
    """Random words of ``input_tokens`` tokens; answers limited to ``output_tokens``."""

    costs: WordCosts
    input_tokens: Length
    output_tokens: Length | None
    seed: int

    def prompt(self, phase: str, index: int) -> Prompt:
        """Return the prompt of request ``index`` of a phase."""
        rng = seeded(self.seed, phase, index)
        text = self.costs.compose(sampled_length(self.input_tokens, rng), rng)
        max_tokens = None if self.output_tokens is None else sampled_length(self.output_tokens, rng)
        return Prompt(text=text, max_tokens=max_tokens)
