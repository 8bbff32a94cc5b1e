"""One request's content, and what gives each request its own."""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request's content: plain text, or the messages of a conversation, and the limit of its answer.

    ``documents`` are what a reranking request's text is compared with.
    """

    text: str | None = None
    messages: tuple[Message, ...] | None = None
    max_tokens: int | None = None
    documents: tuple[str, ...] = ()

    def as_messages(self) -> list[Message]:
        """Give the conversation; plain text is what the user says."""
        if self.messages is not None:
            return list(self.messages)
        return [{"role": "user", "content": self.text or ""}]


class PromptSource(Protocol):
    """Gives each request of a task its prompt."""

    def prompt(self, phase: str, index: int, turn: int = 0) -> Prompt:
        """Return what turn ``turn`` of item ``index`` of a phase says: the same for the same seed, in any order."""
        ...

    def turns(self, phase: str, index: int) -> int:
        """Return the number of turns of item ``index``: 1 for a single request."""
        ...


def seeded(*parts: object) -> random.Random:
    """Give the random numbers that belong to these parts, the same in every run."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 - repeatable on purpose, guards nothing


@lru_cache(maxsize=8)
def shuffled(size: int, seed: int, phase: str, turn: int) -> tuple[int, ...]:
    """Give the order in which ``size`` things are used the ``turn``-th time."""
    order = list(range(size))
    seeded(seed, phase, "order", turn).shuffle(order)
    return tuple(order)
