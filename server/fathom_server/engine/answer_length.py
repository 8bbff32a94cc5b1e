"""How long an answer may be: what the caller asks for beside what the prompt leaves of the context."""

from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.errors import InvalidRequestError


def checked_max_tokens(prompt_tokens: int, sampling: SamplingParameters, context: int, default: int) -> int:
    """Most tokens of an answer; ``default`` where the caller names no length.

    Raises InvalidRequestError for a prompt that is empty or fills the context, and for a length that does not fit.
    """
    if not prompt_tokens:
        raise InvalidRequestError("the prompt is empty; it must have at least one token")
    if prompt_tokens >= context:
        raise InvalidRequestError(
            f"the prompt has {prompt_tokens} tokens; the model takes at most {context - 1}, since prompt and "
            f"answer share a context of {context}"
        )
    room = context - prompt_tokens
    wanted, name = sampling.max_tokens, "max_tokens"
    if wanted is None:
        wanted, name = sampling.min_tokens, "min_tokens"
    if wanted > room:
        raise InvalidRequestError(
            f"{name} is {wanted}, but a prompt of {prompt_tokens} tokens leaves {room} of the context of "
            f"{context}; ask for at most {room} or shorten the prompt"
        )
    if sampling.max_tokens is not None:
        return sampling.max_tokens
    return min(max(default, sampling.min_tokens), room)
