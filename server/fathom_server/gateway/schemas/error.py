"""OpenAI's error object."""

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """What is wrong, of what kind, in which field, and by a name that programs may compare."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorDetail
