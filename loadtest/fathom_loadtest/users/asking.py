"""How each task's request is sent and its answer read."""

from collections.abc import Callable
from typing import Final

from fathom_client import CallTimes, Client, GenerateOptions, GenerationStream, RequestCancelledError
from fathom_loadtest.content.prompt import Prompt
from fathom_loadtest.scenario import Task, TaskSpec
from fathom_loadtest.users.answer import Answer, Departure

Ask = Callable[[Client, TaskSpec, Prompt, Answer, Departure | None], None]
"""Sends one request and fills the answer as its responses arrive; raises FathomError where it fails."""


def _generate(client: Client, task: TaskSpec, prompt: Prompt, answer: Answer, departure: Departure | None) -> None:
    _read(client.stream(task.model, prompt.text or "", **_options(task, prompt)), answer, departure)


def _chat(client: Client, task: TaskSpec, prompt: Prompt, answer: Answer, departure: Departure | None) -> None:
    _read(client.stream_chat(task.model, prompt.as_messages(), **_options(task, prompt)), answer, departure)


def _embed(client: Client, task: TaskSpec, prompt: Prompt, answer: Answer, departure: Departure | None) -> None:
    times = CallTimes()
    with times.use():
        embeddings = client.embed(task.model, [prompt.text or ""], batch_size=1)
    answer.take_times(times)
    answer.num_input_tokens = sum(embeddings.num_input_tokens)


def _rerank(client: Client, task: TaskSpec, prompt: Prompt, answer: Answer, departure: Departure | None) -> None:
    times = CallTimes()
    with times.use():
        ranks = client.rerank(task.model, prompt.text or "", prompt.documents)
    answer.take_times(times)
    answer.num_input_tokens = sum(ranks.num_input_tokens)


ASK: Final[dict[Task, Ask]] = {"generate": _generate, "chat": _chat, "embed": _embed, "rerank": _rerank}


def _options(task: TaskSpec, prompt: Prompt) -> GenerateOptions:
    options: GenerateOptions = {"max_tokens": prompt.max_tokens, **task.sampling.options()}  # type: ignore[typeddict-item] # its fields are the client's
    return options


def _read(stream: GenerationStream, answer: Answer, departure: Departure | None) -> None:
    """Read a stream to its end, or until the caller leaves, noting each response as it arrives."""
    answer.sent_ns = stream.sent_ns
    if departure is None:
        with stream:
            for chunk in stream:
                answer.respond(chunk.num_output_tokens)
            _finish(stream, answer)
        return
    departure.watch(stream)
    try:
        with stream:
            for chunk in stream:
                answer.respond(chunk.num_output_tokens)
                if chunk.finish_reason is None and departure.is_due(answer.num_output_tokens):
                    answer.cancelled = True
                    return
            _finish(stream, answer)
    except RequestCancelledError:
        if not departure.left:  # the server's doing
            raise
        answer.cancelled = True
    finally:
        departure.over()


def _finish(stream: GenerationStream, answer: Answer) -> None:
    whole = stream.result()
    answer.num_input_tokens = whole.num_input_tokens
    answer.num_output_tokens = whole.num_output_tokens
    answer.finish_reason = whole.finish_reason
    answer.text = whole.text
