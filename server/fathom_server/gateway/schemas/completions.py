"""``/v1/completions``: OpenAI's bodies."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, Field, model_validator

from fathom_client import protocol
from fathom_server.gateway.schemas.sampling import SamplingFields, Text, TokenId
from fathom_server.gateway.schemas.usage import Usage

DEFAULT_MAX_TOKENS: Final = 16
"""OpenAI's."""

TokenIds = Annotated[list[TokenId], Field(min_length=1)]


class CompletionRequest(SamplingFields):
    """Prompts to go on with."""

    prompt: (
        Text | Annotated[list[Text], Field(min_length=1)] | TokenIds | Annotated[list[TokenIds], Field(min_length=1)]
    )
    best_of: Annotated[int, Field(ge=1, le=protocol.MAX_SEQUENCES)] | None = Field(
        default=None, description="Give the likeliest n of so many; not while streaming."
    )
    echo: bool | None = Field(default=None, description="The prompt before each answer.")
    logprobs: Annotated[int, Field(ge=0, le=protocol.MAX_LOGPROBS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        default=None, description=f"{DEFAULT_MAX_TOKENS} without it."
    )
    suffix: None = Field(default=None, description="Not supported: models go on with a text, they fill no gaps.")

    @model_validator(mode="after")
    def _check_echo(self) -> Self:
        if self.echo and self.stream and self.logprobs is not None:
            raise ValueError("echo with logprobs is not streamed; set stream to false, or leave one of the two out")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt of the request: a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def options(self) -> dict[str, Any]:
        """The client's options of each prompt's generation, but for the echo of a text."""
        options = self.sampling_options()
        options["max_tokens"] = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        if self.best_of is not None:
            options["best_of"] = self.best_of
        if self.logprobs is not None:
            options["logprobs"] = self.logprobs
            if self.echo:
                options["prompt_logprobs"] = self.logprobs
        return options


class CompletionLogprobs(BaseModel):
    r"""Log-probabilities of the tokens of a text; the lists have an element a token.

    A token that is no whole characters is written ``bytes:\xNN``. A prompt's first token has no log-probability.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One answer, or the next part of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(BaseModel):
    """Answers to all prompts, those to the first first."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
