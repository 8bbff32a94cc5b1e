"""Numbers of tokens."""

from pydantic import BaseModel


class Usage(BaseModel):
    """Tokens of the prompts, each counted once, and of all answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
