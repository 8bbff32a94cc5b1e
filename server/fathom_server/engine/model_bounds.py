"""What a model can take of a request: tokens of its vocabulary, prompt and answer within its context."""

from collections.abc import Sequence
from dataclasses import dataclass

from fathom_server.engine.answer_length import checked_max_tokens
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class ModelBounds:
    """``context`` in tokens, prompt and answer together; an answer has ``default_max_tokens`` where nobody says."""

    context: int
    default_max_tokens: int
    vocabulary: int

    def checked_max_tokens(self, prompt_ids: Sequence[int], sampling: SamplingParameters) -> int:
        """Most tokens of an answer to a prompt.

        Raises InvalidRequestError for lengths that do not fit, and for ids that the vocabulary does not have.
        """
        max_tokens = checked_max_tokens(len(prompt_ids), sampling, self.context, self.default_max_tokens)
        if min(prompt_ids) < 0 or max(prompt_ids) >= self.vocabulary:
            stranger = next(token for token in prompt_ids if not 0 <= token < self.vocabulary)
            raise InvalidRequestError(
                f"input_ids holds {stranger}; the vocabulary has the ids 0 to {self.vocabulary - 1}"
            )
        sampling.check_vocabulary(self.vocabulary)
        return max_tokens
