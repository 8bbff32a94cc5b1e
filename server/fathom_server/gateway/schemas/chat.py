"""``/v1/chat/completions``: OpenAI's bodies."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, Field, model_validator

from fathom_client import protocol
from fathom_server.gateway.schemas.messages import Message
from fathom_server.gateway.schemas.sampling import SamplingFields, StrictModel, Structure, Text
from fathom_server.gateway.schemas.usage import Usage

MAX_TOOLS: Final = 128
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Function(StrictModel):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="JSON schema of the arguments, an object.")
    strict: bool | None = Field(
        default=None,
        description="Taken for OpenAI's sake: arguments fit the schema where tool_choice is required or names a "
        "function, whatever is said here.",
    )


class Tool(StrictModel):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class NamedFunction(StrictModel):
    """A function by its name."""

    name: FunctionName


class NamedToolChoice(StrictModel):
    """The function that must be called."""

    type: Literal["function"]
    function: NamedFunction


class TextFormat(StrictModel):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(StrictModel):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(StrictModel):
    """A schema with its name; answers fit it whether ``strict`` is true or not."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(StrictModel):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class ChatRequest(SamplingFields):
    """A conversation to answer."""

    messages: Annotated[list[Message], Field(min_length=1)]
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Further variables of the model's chat template, as vLLM takes them."
    )
    logprobs: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        default=None, description="The older name of max_completion_tokens; the engine chooses without either."
    )
    metadata: dict[str, str] | None = Field(default=None, description="Taken for OpenAI's sake, and not used.")
    modalities: list[Literal["text"]] | None = None
    parallel_tool_calls: bool | None = Field(default=None, description="false: at most one call; true without it.")
    response_format: ResponseFormat | None = None
    store: Literal[False] | None = Field(default=None, description="Nothing is stored.")
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=protocol.MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _check_chat(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is given, but logprobs is not true; send both or neither")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; send one of them")
        self._check_tools()
        return self

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"tools has two functions of the name {twice!r}; give each its own name")
        if isinstance(self.tool_choice, NamedToolChoice) and self.tool_choice.function.name not in names:
            raise ValueError(
                f"tool_choice names {self.tool_choice.function.name!r}, which is not in tools; add it there"
            )
        if self.tool_choice not in (None, "none") and not self.tools:
            raise ValueError("tool_choice is given without tools; send tools as well")
        if self.offered_tools and self.structure is not None:
            raise ValueError(
                f"{self.structure} contradicts tools, since an answer of that structure can hold no calls; leave one "
                "out, or set tool_choice to none"
            )

    @property
    def offered_tools(self) -> list[Tool]:
        """The tools that the model may call."""
        return [] if self.tool_choice == "none" else self.tools or []

    def structures(self) -> list[Structure]:
        """The structures that the answer must have, ``response_format`` among them."""
        every = super().structures()
        match self.response_format:
            case JsonObjectFormat():
                every.append(Structure("response_format", "json_object", True))
            case JsonSchemaFormat(json_schema=asked):
                every.append(Structure("response_format", "json_schema", asked.schema_))
            case _:
                pass
        return every

    def options(self) -> dict[str, Any]:
        """The client's options of the generation, but for tools."""
        options = self.sampling_options()
        max_tokens = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        if max_tokens is not None:
            options["max_tokens"] = max_tokens
        if self.logprobs:
            options["logprobs"] = self.top_logprobs or 0
        if self.chat_template_kwargs:
            options["chat_template_kwargs"] = self.chat_template_kwargs
        return options


class CalledFunction(BaseModel):
    """A function's name and its arguments: JSON as the model wrote it."""

    name: Text
    arguments: str


class ToolCall(BaseModel):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantAnswer(BaseModel):
    """What the model says: a text, calls, or both."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] | None = None


class TopLogprob(BaseModel):
    """A token with the bytes that it writes and its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of the answer, and the likeliest ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """The log-probabilities of all tokens of an answer."""

    content: list[TokenLogprob]
    refusal: None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AssistantAnswer
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(BaseModel):
    """Answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
