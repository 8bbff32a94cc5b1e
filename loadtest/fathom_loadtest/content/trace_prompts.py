"""Prompts for a replayed trace: the recorded lengths, and the same text wherever the recording had the same block."""

from dataclasses import dataclass
from functools import lru_cache

from fathom_loadtest.content.prompt import Prompt, seeded
from fathom_loadtest.content.synthetic import WORDS, WordCosts
from fathom_loadtest.load.trace import Trace


@dataclass(frozen=True, slots=True)
class TracePrompts:
    """Random words of each entry's ``input_tokens``, whose blocks of ``block_tokens`` follow from its ``hash_ids``.

    A block is the same text in every prompt that names it. An entry without ids, and what its ids do not cover, is
    unlike every other.
    """

    costs: WordCosts
    trace: Trace
    seed: int

    def prompt(self, phase: str, index: int, turn: int = 0) -> Prompt:
        """Return the prompt of the trace's entry ``index`` (from the start again after the last)."""
        entry = self.trace.entries[index % len(self.trace.entries)]
        left = float(entry.input_tokens - self.costs.opening)
        words = [WORDS[0]]
        for hash_id in entry.hash_ids:
            if left <= 0:
                break
            block, cost = _block(self.costs, self.trace.block_tokens, self.seed, hash_id)
            if cost > left:
                block, cost = self._cut(block, left)
            words += block
            left -= cost
        words += self.costs.further(left, seeded(self.seed, "trace", index))
        return Prompt(" ".join(words), max_tokens=entry.output_tokens)

    def turns(self, phase: str, index: int) -> int:
        """Return 1: a trace's requests stand alone."""
        return 1

    def _cut(self, block: tuple[str, ...], tokens: float) -> tuple[tuple[str, ...], float]:
        used = 0.0
        for place, word in enumerate(block):
            cost = self.costs.cost(word)
            if used + cost > tokens:
                return block[:place], used
            used += cost
        return block, used


@lru_cache(maxsize=4096)
def _block(costs: WordCosts, tokens: int, seed: int, hash_id: int) -> tuple[tuple[str, ...], float]:
    """A block's words and what they cost."""
    words = tuple(costs.further(tokens, seeded(seed, "block", hash_id)))
    return words, sum(map(costs.cost, words))
