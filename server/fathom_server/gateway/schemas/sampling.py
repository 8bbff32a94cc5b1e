"""What chat and plain completions have in common: how an answer is sampled, ended, structured and given."""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fathom_client import protocol

MAX_STOPS: Final = 16
_UINT64: Final = 2**64

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(min_length=1)]
Penalty = Annotated[float, Field(ge=-protocol.MAX_PENALTY, le=protocol.MAX_PENALTY)]
BiasedToken = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-protocol.MAX_LOGIT_BIAS, le=protocol.MAX_LOGIT_BIAS)]
Schema = dict[str, Any] | str


class StrictModel(BaseModel):
    """A part of a request: unknown fields are refused, and values of another type are not turned into the right one."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(StrictModel):
    """What a stream brings besides the answer."""

    include_usage: bool = Field(default=False, description="Send the numbers of tokens in a last event.")
    include_obfuscation: Literal[False] | None = Field(default=None, description="Nothing is obfuscated.")


class StructuredOutputs(StrictModel):
    """vLLM's form of the structure that an answer must have; exactly one."""

    json_: Schema | None = Field(default=None, alias="json", description="A JSON schema.")
    json_object: bool | None = Field(default=None, description="Any JSON object.")
    regex: Text | None = None
    choice: Annotated[list[Text], Field(min_length=1)] | None = None
    grammar: Text | None = Field(default=None, description="A context-free grammar, in Lark's notation or GBNF.")


@dataclass(frozen=True, slots=True)
class Structure:
    """One field that asks for a structure, the client's option that means it, and its value."""

    field: str
    option: str
    value: Any


class SamplingFields(StrictModel):
    """Fields of both completions' requests. Those that OpenAI has not are vLLM's, and mean what they mean there."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    frequency_penalty: Penalty | None = None
    logit_bias: dict[BiasedToken, Bias] | None = Field(default=None, description="Token ids, and what is added.")
    n: Annotated[int, Field(ge=1, le=protocol.MAX_SEQUENCES)] | None = Field(default=None, description="Answers.")
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=_UINT64)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=protocol.MAX_TEMPERATURE)] | None = Field(
        default=None, description="1 without it, as in OpenAI's API; 0 is greedy."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    user: str | None = Field(
        default=None, description="Where no API keys are asked for, users take turns by this name."
    )

    bad_words: list[Text] | None = None
    guided_choice: Annotated[list[Text], Field(min_length=1)] | None = None
    guided_grammar: Text | None = None
    guided_json: Schema | None = None
    guided_regex: Text | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = Field(default=None, description="The lower first.")
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    skip_special_tokens: bool | None = None
    stop_token_ids: list[TokenId] | None = None
    structured_outputs: StructuredOutputs | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = Field(default=None, description="0 and -1: all tokens.")
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is given, but stream is not true; send both or neither")
        given = [structure.field for structure in self.structures()]
        if len(given) > 1:
            raise ValueError(f"an answer can have one structure; this request has {' and '.join(given)}")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def structure(self) -> str | None:
        """The field by which the request asks for a structure."""
        return next((structure.field for structure in self.structures()), None)

    def structures(self) -> list[Structure]:
        """The structures that the answer must have; a request that was checked has one at most."""
        inner = self.structured_outputs or StructuredOutputs()
        every = (
            Structure("guided_json", "json_schema", self.guided_json),
            Structure("guided_regex", "regex", self.guided_regex),
            Structure("guided_choice", "choice", self.guided_choice),
            Structure("guided_grammar", "grammar", self.guided_grammar),
            Structure("structured_outputs.json", "json_schema", inner.json_),
            Structure("structured_outputs.json_object", "json_object", inner.json_object or None),
            Structure("structured_outputs.regex", "regex", inner.regex),
            Structure("structured_outputs.choice", "choice", inner.choice),
            Structure("structured_outputs.grammar", "grammar", inner.grammar),
        )
        return [structure for structure in every if structure.value is not None]

    def sampling_options(self) -> dict[str, Any]:
        """What these fields mean, as options of a generation."""
        names = (
            *("frequency_penalty", "presence_penalty", "top_p", "min_p", "typical_p", "repetition_penalty"),
            *("n", "min_tokens", "priority", "bad_words", "stop_token_ids"),
            *("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"),
        )
        options: dict[str, Any] = {name: value for name in names if (value := getattr(self, name)) not in (None, [])}
        options["temperature"] = 1.0 if self.temperature is None else self.temperature
        if self.top_k is not None:
            options["top_k"] = max(0, self.top_k)
        if self.seed is not None:
            options["seed"] = self.seed % _UINT64
        if self.stop:
            options["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        if self.logit_bias:
            options["logit_bias"] = {int(token): bias for token, bias in self.logit_bias.items()}
        options |= {structure.option: structure.value for structure in self.structures()}
        return options
