"""Plain completions in OpenAI's form, whole or as the chunks of a stream."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from fathom_client import Generation, GenerationChoice
from fathom_server.gateway.answers.generation import PromptChunk
from fathom_server.gateway.answers.logprobs import CompletionLogprobWriter
from fathom_server.gateway.schemas.completions import CompletionRequest


class CompletionAnswerWriter:
    """Writes the answers to one request; those to its first prompt come first.

    The echo of a prompt's text is the text itself; that of token ids is the server's, which stands in the answer.
    """

    def __init__(self, request_id: str, asked: CompletionRequest) -> None:
        self._head = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": asked.model,
        }
        self._answers = asked.n or 1
        self._echoes = [prompt if asked.echo and isinstance(prompt, str) else "" for prompt in asked.prompts]
        self._logprobs: dict[int, CompletionLogprobWriter] = {}
        self._begun: set[int] = set()

    def whole(self, generations: Sequence[Generation], usage: dict[str, Any]) -> dict[str, Any]:
        """A whole answer."""
        choices = [
            self._choice(prompt, generation, choice)
            for prompt, generation in enumerate(generations)
            for choice in generation.choices
        ]
        return {**self._head, "choices": choices, "usage": usage}

    def chunk(self, choices: list[dict[str, Any]], further: dict[str, Any]) -> dict[str, Any]:
        """A chunk of a stream."""
        return {**self._head, "choices": choices, **further}

    def entries(self, part: PromptChunk) -> Iterator[dict[str, Any]]:
        """The entry of ``choices`` that the next part of an answer makes, if there is anything in it."""
        index, chunk = part.prompt * self._answers + part.chunk.index, part.chunk
        text = chunk.text
        if index not in self._begun:
            self._begun.add(index)
            text = self._echoes[part.prompt] + text
        if text or chunk.logprobs or chunk.finish_reason is not None:
            writer = self._logprobs.setdefault(index, CompletionLogprobWriter())
            yield {
                "index": index,
                "text": text,
                "logprobs": None if chunk.logprobs is None else writer.write(chunk.logprobs),
                "finish_reason": chunk.finish_reason,
            }

    def _choice(self, prompt: int, generation: Generation, choice: GenerationChoice) -> dict[str, Any]:
        tokens = None if choice.logprobs is None else [*(generation.prompt_logprobs or ()), *choice.logprobs]
        return {
            "index": prompt * self._answers + choice.index,
            "text": self._echoes[prompt] + choice.text,
            "logprobs": None if tokens is None else CompletionLogprobWriter().write(tokens),
            "finish_reason": choice.finish_reason,
        }
