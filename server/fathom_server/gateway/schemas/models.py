"""``/v1/models``: OpenAI's bodies, and what each model is for."""

from typing import Literal

from pydantic import BaseModel


class Model(BaseModel):
    """A model that callers may name; ``created`` is when the gateway met it first."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: Literal["generate", "embed", "rerank", "classify"]


class ModelList(BaseModel):
    """Every model that is ready."""

    object: Literal["list"]
    data: list[Model]
