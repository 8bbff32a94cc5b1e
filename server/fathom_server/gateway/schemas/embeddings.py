"""``/v1/embeddings``: OpenAI's bodies, and what Fathom's embedding models take besides."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

MAX_TEXTS: Final = 2048
"""Texts in one request, as OpenAI has it."""

_Text = Annotated[str, Field(min_length=1)]
_Input = Annotated[
    Annotated[_Text, Tag("str")] | Annotated[list[_Text], Field(min_length=1, max_length=MAX_TEXTS), Tag("list")],
    Discriminator(lambda given: "list" if isinstance(given, list) else "str"),
]


class EmbeddingsRequest(BaseModel):
    """Texts to turn into vectors."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: _Text
    input: _Input = Field(description="A text or a list of them. Token ids are not taken.")
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64: of each vector's 32-bit floats, little-endian."
    )
    dimensions: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="The number that the model's vectors have; any other is refused, none are cut."
    )
    user: str | None = Field(default=None, description="Taken for OpenAI's sake, and not used.")
    prompt_name: _Text | None = Field(
        default=None,
        description="The prompt that the model puts before each text: query, document, or one of its own.",
    )
    truncate: bool = Field(default=False, description="Cut texts that are too long instead of refusing them.")

    @field_validator("input", mode="before")
    @classmethod
    def _refuse_token_ids(cls, given: Any) -> Any:
        """Say what is the matter with OpenAI's other forms, which mean the ids of another model's tokenizer."""
        first = given[0] if isinstance(given, list) and given else None
        if isinstance(first, int | list) and not isinstance(first, bool):
            raise ValueError("token ids are not taken, since each model has its own; send the texts as strings")
        return given


class Embedding(BaseModel):
    """One text's vector, as numbers or in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """Tokens of all texts together."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """One vector a text, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage
