"""What requests say: the prompts of a file, or synthetic ones; the n-th request of a stage always says the same."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from fathom_loadtest.errors import PromptSetError
from fathom_loadtest.scenario import Length, Scenario, Task

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request's content: plain text, or the messages of a conversation (exactly one of them), and its limit."""

    text: str | None = None
    messages: tuple[Message, ...] | None = None
    max_tokens: int | None = None

    def as_messages(self) -> list[Message]:
        """Give the conversation; plain text is what the user says."""
        if self.messages is not None:
            return list(self.messages)
        return [{"role": "user", "content": self.text or ""}]


class PromptSource(Protocol):
    """Gives each request its prompt."""

    def prompt(self, phase: str, index: int) -> Prompt:
        """Return the prompt of request ``index`` of a phase: the same for the same seed, in whatever order asked."""
        ...


def seeded(*parts: object) -> random.Random:
    """Give the random numbers that belong to these parts, the same in every run."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 - repeatable on purpose, guards nothing


@lru_cache(maxsize=8)
def _shuffled(size: int, seed: int, phase: str, turn: int) -> tuple[int, ...]:
    order = list(range(size))
    seeded(seed, phase, "order", turn).shuffle(order)
    return tuple(order)


def sampled_length(length: Length, rng: random.Random) -> int:
    """Draw one length in tokens, at least 1."""
    return max(1, round(rng.gauss(length.mean, length.stddev)))


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts of a file in a seeded order, shuffled anew each time all were used."""

    prompts: tuple[Prompt, ...]
    output_tokens: Length | None
    seed: int

    def prompt(self, phase: str, index: int) -> Prompt:
        """Return the prompt of request ``index`` of a phase."""
        turn, place = divmod(index, len(self.prompts))
        chosen = self.prompts[_shuffled(len(self.prompts), self.seed, phase, turn)[place]]
        if self.output_tokens is None:
            return chosen
        return Prompt(chosen.text, chosen.messages, sampled_length(self.output_tokens, seeded(self.seed, phase, index)))


def load_prompt_set(scenario: Scenario) -> PromptSet:
    """Read ``scenario.prompt_file``, JSON objects one a line: {"prompt": text} or {"messages": [{"role", "content"}]}.

    Raises PromptSetError naming the file and the line that is malformed or does not fit the task.
    """
    path = scenario.prompt_file
    assert path is not None  # noqa: S101 - the scenario was checked when built
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise PromptSetError(f"{path}: cannot be read ({error.strerror}); name a JSONL file of prompts") from error
    prompts = tuple(_parse_line(line, f"{path}:{number}", scenario.task) for number, line in _filled(lines))
    if not prompts:
        raise PromptSetError(
            f'{path}: holds no prompt; write one JSON object a line, for example {{"prompt": "Hello"}}'
        )
    return PromptSet(prompts, scenario.output_tokens, scenario.seed)


def _filled(lines: Sequence[bytes]) -> list[tuple[int, bytes]]:
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _parse_line(line: bytes, where: str, task: Task) -> Prompt:
    try:
        fields = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise PromptSetError(f"{where}: is not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise PromptSetError(f"{where}: is not JSON ({error}); write one JSON object a line") from error
    if not isinstance(fields, dict) or len({"prompt", "messages"} & fields.keys()) != 1:
        raise PromptSetError(f'{where}: needs exactly one of "prompt" and "messages"')
    unknown = fields.keys() - {"prompt", "messages"}
    if unknown:
        raise PromptSetError(f"{where}: unknown field {sorted(unknown)[0]!r}; valid: prompt, messages")
    if "messages" in fields:
        if task != "chat":
            raise PromptSetError(f"{where}: has messages, but --task {task} sends plain text; use --task chat")
        return Prompt(messages=_parse_messages(fields["messages"], where))
    text = fields["prompt"]
    if not isinstance(text, str) or not text:
        raise PromptSetError(f'{where}: "prompt" is {text!r}; it must be a text that is not empty')
    return Prompt(text=text)


def _parse_messages(messages: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise PromptSetError(f'{where}: "messages" must be a list of at least one {{"role": …, "content": …}}')
    for position, message in enumerate(messages):
        fits = isinstance(message, dict) and message.keys() == {"role", "content"}
        if not fits or not all(isinstance(value, str) for value in message.values()):
            raise PromptSetError(
                f'{where}: message {position} is {message!r}; it must be {{"role": text, "content": text}}'
            )
    return tuple(messages)
