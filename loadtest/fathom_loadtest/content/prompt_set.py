"""Prompts of a file: JSON lines of prompts, messages or queries, or ShareGPT's JSON of conversations."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fathom_loadtest.content.prompt import Message, Prompt, seeded, shuffled
from fathom_loadtest.errors import PromptSetError
from fathom_loadtest.scenario import TaskSpec

_ROLES: Final = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip
"""Speakers in ShareGPT files and their roles; turns of others (tools) end what is used of a conversation."""
_MAX_OUTPUT_TOKENS: Final = 1 << 24

Entry = tuple[Prompt, ...]
"""One prompt, or what the user says in each turn of a conversation."""


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Entries of a file in a seeded order, shuffled anew each time all were used."""

    entries: tuple[Entry, ...]
    task: TaskSpec
    seed: int

    def prompt(self, phase: str, index: int, turn: int = 0) -> Prompt:
        """Return what turn ``turn`` of item ``index`` of a phase says."""
        chosen = self._entry(phase, index)[turn]
        if self.task.output_tokens is None:
            return chosen
        rng = seeded(self.seed, phase, index, turn)
        return replace(chosen, max_tokens=self.task.output_tokens.sample(rng))

    def turns(self, phase: str, index: int) -> int:
        """Return the number of turns: what the scenario draws, but no more than the entry has."""
        if self.task.conversation is None:
            return 1
        wished = self.task.conversation.turns.sample(seeded(self.seed, phase, index, "turns"))
        return min(wished, len(self._entry(phase, index)))

    def _entry(self, phase: str, index: int) -> Entry:
        turn, place = divmod(index, len(self.entries))
        return self.entries[shuffled(len(self.entries), self.seed, phase, turn)[place]]


def load_prompt_set(task: TaskSpec, seed: int) -> PromptSet:
    """Read ``task.prompts``.

    JSON lines hold one object each: {"prompt": text}, {"messages": [{"role", "content"}, …]} (task chat) or {"query":
    text, "documents": [text, …]} (task rerank), with "max_tokens" if wished. ShareGPT's form is {"conversations":
    [{"from", "value"}, …]}, one a line or all in one list; what its users say is sent. Raises PromptSetError naming the
    file and the line that is malformed or does not fit the task.
    """
    path = task.prompts
    assert path is not None  # noqa: S101 - the scenario was checked when built
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PromptSetError(f"{path}: cannot be read ({error.strerror}); name a file of prompts") from error
    objects = _list_items if content.lstrip()[:1] == b"[" else _lines
    entries = tuple(entry for fields, where in objects(content, path) if (entry := _entry(fields, where, task)))
    if not entries:
        raise PromptSetError(
            f'{path}: holds no prompt; write one JSON object a line, for example {{"prompt": "Hello"}}'
        )
    if task.conversation is not None and max(map(len, entries)) < 2:
        raise PromptSetError(f"{path}: holds no conversation of two turns; leave [tasks.conversation] out")
    return PromptSet(entries, task, seed)


def _lines(content: bytes, path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            yield json.loads(line.decode("utf-8")), where
        except UnicodeDecodeError as error:
            raise PromptSetError(f"{where}: is not UTF-8 (byte {error.start}); save the file as UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise PromptSetError(f"{where}: is not JSON ({error}); write one JSON object a line") from error


def _list_items(content: bytes, path: Path) -> Iterator[tuple[Any, str]]:
    """Walk through one long JSON list, so that each item's line is known."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PromptSetError(f"{path}:{line}: is not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    decoder, place, line, counted = json.JSONDecoder(), text.index("[") + 1, 1, 0
    while True:
        place = _past_space(text, place)
        line, counted = line + text.count("\n", counted, place), place
        if text[place : place + 1] == "]":
            return
        try:
            item, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            at = line + text.count("\n", place, getattr(error, "pos", place))
            raise PromptSetError(f"{path}:{at}: is not JSON ({getattr(error, 'msg', error)}); mend the list") from error
        yield item, f"{path}:{line}"
        place = _past_space(text, end)
        if text[place : place + 1] == ",":
            place += 1
        elif text[place : place + 1] != "]":
            at = line + text.count("\n", counted, place)
            raise PromptSetError(f"{path}:{at}: is not JSON (expecting ',' or ']'); mend the list")


def _past_space(text: str, place: int) -> int:
    while text[place : place + 1] in (" ", "\t", "\r", "\n") and place < len(text):
        place += 1
    return place


def _entry(fields: Any, where: str, task: TaskSpec) -> Entry:
    if isinstance(fields, dict) and "conversations" in fields:
        _check_task(task, "chat", "generate", where=where, has="conversations")
        return _share_gpt(fields["conversations"], where, task)
    kinds = ("prompt", "messages", "query")
    if not isinstance(fields, dict) or len(set(kinds) & fields.keys()) != 1:
        raise PromptSetError(f'{where}: needs exactly one of "prompt", "messages", "query" and "conversations"')
    kind = next(kind for kind in kinds if kind in fields)
    known = {kind, "documents"} if kind == "query" else {kind, "max_tokens"}
    unknown = fields.keys() - known
    if unknown:
        raise PromptSetError(f"{where}: unknown field {min(unknown)!r}; valid: {', '.join(sorted(known))}")
    if kind == "query":
        _check_task(task, "rerank", where=where, has="a query")
        return (Prompt(_text(fields["query"], "query", where), documents=_documents(fields.get("documents"), where)),)
    limit = _limit(fields.get("max_tokens"), where)
    if kind == "messages":
        _check_task(task, "chat", where=where, has="messages")
        return _by_turns(_messages(fields["messages"], where), limit, task)
    _check_task(task, "generate", "chat", "embed", where=where, has="a prompt")
    return (Prompt(_text(fields["prompt"], "prompt", where), max_tokens=limit),)


def _check_task(task: TaskSpec, *valid: str, where: str, has: str) -> None:
    if task.task not in valid:
        raise PromptSetError(f"{where}: has {has}, which task {task.task} cannot send; use task {' or '.join(valid)}")


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise PromptSetError(f'{where}: "{name}" is {value!r}; it must be a text that is not empty')
    return value


def _limit(value: Any, where: str) -> int | None:
    if value is not None and (type(value) is not int or not 1 <= value <= _MAX_OUTPUT_TOKENS):
        raise PromptSetError(f'{where}: "max_tokens" is {value!r}; it must be a whole number, at least 1')
    return value


def _documents(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
        raise PromptSetError(f'{where}: "documents" must be a list of at least one text that is not empty')
    return tuple(value)


def _messages(messages: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise PromptSetError(f'{where}: "messages" must be a list of at least one {{"role": …, "content": …}}')
    for position, message in enumerate(messages):
        fits = isinstance(message, dict) and message.keys() == {"role", "content"}
        if not fits or not all(isinstance(value, str) for value in message.values()):
            raise PromptSetError(
                f'{where}: message {position} is {message!r}; it must be {{"role": text, "content": text}}'
            )
    return tuple(messages)


def _by_turns(messages: tuple[Message, ...], limit: int | None, task: TaskSpec) -> Entry:
    """Keep a conversation whole, or cut it into what the user says: the model gives the answers itself."""
    if task.conversation is None:
        return (Prompt(messages=messages, max_tokens=limit),)
    turns: list[tuple[Message, ...]] = []
    before: list[Message] = []
    for message in messages:
        if message["role"] == "user":
            turns.append((*before, message))
            before = []
        elif message["role"] != "assistant":
            before.append(message)
    return tuple(Prompt(messages=turn, max_tokens=limit) for turn in turns) or (
        Prompt(messages=messages, max_tokens=limit),
    )


def _share_gpt(turns: Any, where: str, task: TaskSpec) -> Entry:
    """What the users of a ShareGPT conversation say; nothing for one in which none speaks."""
    if not isinstance(turns, list):
        raise PromptSetError(f'{where}: "conversations" must be a list of {{"from": …, "value": …}}')
    messages: list[Message] = []
    for position, turn in enumerate(turns):
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("from"), str)
            or not isinstance(turn.get("value"), str)
        ):
            raise PromptSetError(f'{where}: turn {position} is {turn!r}; it must be {{"from": text, "value": text}}')
        role = _ROLES.get(turn["from"])
        if role is None:
            break
        if turn["value"]:
            messages.append({"role": role, "content": turn["value"]})
    first = next((place for place, message in enumerate(messages) if message["role"] == "user"), None)
    if first is None:
        return ()
    if task.conversation is not None:
        return _by_turns(tuple(messages), None, task)
    return (Prompt(messages[first]["content"]),)
