"""Asking for every answer that is not there yet, many at a time."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fathom_client import Generation
from fathom_synth.asking import Asker, RefusedError
from fathom_synth.candidate import Answers
from fathom_synth.errors import SynthError
from fathom_synth.journal import Journal
from fathom_synth.prompts import Prompt, Unusable


@dataclass(frozen=True, slots=True)
class Refusal:
    """A prompt that the server would not answer."""

    prompt: Prompt
    reason: str


async def generate(
    prompts: Iterable[Prompt | Unusable],
    model: str,
    asker: Asker,
    in_flight: int,
    journal: Journal,
    done: Callable[[Answers | None], None],
) -> list[Refusal]:
    """Ask for the answers to all prompts that the journal lacks, and note them there as they come.

    ``done`` is called for each with its answers, or None for one that was refused. Gives the refusals in the prompts'
    order. Raises ServerError and OutputError; what was answered by then is in the journal.
    """
    refusals: dict[str, Refusal] = {}
    places = asyncio.Semaphore(in_flight)

    async def ask(prompt: Prompt) -> None:
        try:
            generation = await asker.ask(lambda: _chat(asker, model, prompt), _tokens)
        except RefusedError as error:
            refusals[prompt.key] = Refusal(prompt, str(error))
            done(None)
            return
        finally:
            places.release()
        answers = Answers.of(generation)
        journal.add(prompt.key, answers.to_json())
        done(answers)

    asked: list[str] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            for prompt in prompts:
                if isinstance(prompt, Prompt) and prompt.key not in journal:
                    await places.acquire()
                    asked.append(prompt.key)
                    tasks.create_task(ask(prompt))
    except* SynthError as group:
        raise _first(group) from None
    return [refusals[key] for key in asked if key in refusals]


async def _chat(asker: Asker, model: str, prompt: Prompt) -> Generation:
    options: dict[str, Any] = prompt.sampling.options()
    if prompt.json_schema is not None and prompt.imposes_schema:
        options["json_schema"] = prompt.json_schema
    return await asker.client.chat(model, prompt.messages, seed=prompt.seed, logprobs=0, **options)


def _tokens(answer: Generation) -> int:
    return answer.num_input_tokens + answer.num_output_tokens


def _first(group: BaseExceptionGroup[SynthError]) -> SynthError:
    """The first exception of a group that is one of ours."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, SynthError)  # noqa: S101 - the group was split by this type
    return found
