"""``/v1/rerank``: the bodies that Jina's and Cohere's APIs have in common."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

MAX_DOCUMENTS: Final = 2048

_Text = Annotated[str, Field(min_length=1)]


class RerankDocument(BaseModel):
    """A document as an object."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: _Text


_Document = Annotated[
    Annotated[_Text, Tag("str")] | Annotated[RerankDocument, Tag("dict")],
    Discriminator(lambda given: "dict" if isinstance(given, dict | RerankDocument) else "str"),
]


class RerankRequest(BaseModel):
    """Documents to put in the order in which they answer a query."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: _Text
    query: _Text
    documents: Annotated[list[_Document], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="So many of the best; without it, or where there are fewer, all."
    )
    return_documents: bool = Field(default=False, description="Give the documents' texts back with their scores.")
    truncate: bool = Field(
        default=False, description="Cut pairs that are too long, the longer text first, instead of refusing them."
    )


class RerankResult(BaseModel):
    """How well one document answers the query, in the model's own scale: higher is better."""

    index: int
    relevance_score: float
    document: RerankDocument | None = None


class RerankUsage(BaseModel):
    """Tokens of all pairs of query and document together."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(BaseModel):
    """The documents by their positions in the request, the best first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: RerankUsage
