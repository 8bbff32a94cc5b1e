"""Signs of degenerate text that need no language: repetition, lines, symbols, runs."""

import unicodedata
from collections.abc import Sequence
from itertools import groupby

from fathom_synth.candidate import Candidate
from fathom_synth.filters.settings import HeuristicsSettings


class HeuristicsFilter:
    """Drops answers that repeat themselves, or are made of symbols."""

    def __init__(self, settings: HeuristicsSettings) -> None:
        self._settings = settings

    async def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """``long run``, ``repeats itself``, ``repeats lines`` or ``symbols``."""
        return [self._reason(candidate.sample.text) for candidate in candidates]

    def _reason(self, text: str) -> str | None:
        limits = self._settings
        if longest_run(text) > limits.max_run:
            return "long run"
        if len(text.strip()) < limits.min_characters:
            return None
        if repeated_share(text, limits.ngram) > limits.max_repeated_share:
            return "repeats itself"
        if repeated_lines_share(text) > limits.max_repeated_lines_share:
            return "repeats lines"
        if symbol_share(text) > limits.max_symbol_share:
            return "symbols"
        return None


def repeated_share(text: str, ngram: int) -> float:
    """Share of a text's n-grams of characters that came before in it; 0 for one that is shorter."""
    grams = len(text) - ngram + 1
    if grams < 1:
        return 0.0
    return 1.0 - len({text[place : place + ngram] for place in range(grams)}) / grams


def repeated_lines_share(text: str) -> float:
    """Share of a text's lines that came before in it; empty lines are none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return 1.0 - len(set(lines)) / len(lines) if lines else 0.0


def symbol_share(text: str) -> float:
    """Share of symbols and punctuation among a text's characters, white space apart.

    Letters, marks and numbers are what Unicode's general categories L, M and N hold, in any script.
    """
    visible = [character for character in text if not character.isspace()]
    symbols = sum(unicodedata.category(character)[0] not in "LMN" for character in visible)
    return symbols / len(visible) if visible else 0.0


def longest_run(text: str) -> int:
    """Length of the longest run of one character."""
    return max((sum(1 for _ in run) for _, run in groupby(text)), default=0)
