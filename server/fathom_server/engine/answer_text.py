"""Tokens of one answer to text that may be shown, and the point where the answer ends."""

from collections.abc import Collection

from fathom_client import protocol
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.text.detokenizer import Detokenizer
from fathom_server.text.stop_strings import StopStringFilter


class AnswerText:
    """The text of one answer as its tokens come.

    It ends at an end token (unless ``ignore_eos``), a stop token, a stop string (looked for after ``min_tokens``; the
    sampler keeps end and stop tokens away until then), or after ``max_tokens``. Where special tokens are shown, the one
    that ends it is not.
    """

    def __init__(
        self,
        sampling: SamplingParameters,
        detokenizer: Detokenizer,
        eos_token_ids: Collection[int],
        max_tokens: int,
    ) -> None:
        self._sampling = sampling
        self._detokenizer = detokenizer
        self._filter = StopStringFilter(sampling.stop, include=sampling.include_stop_str_in_output)
        ends = set() if sampling.ignore_eos else set(eos_token_ids)
        self._end_ids = frozenset(ends | set(sampling.stop_token_ids))
        self._max_tokens = max_tokens
        self._tokens = 0

    def push(self, token: int, *, grammar_ends: bool) -> tuple[str, str | None]:
        """Text that is certain after one more token, and the reason if the answer ends with it."""
        self._tokens += 1
        is_end = token in self._end_ids
        text = "" if is_end and not self._sampling.skip_special_tokens else self._detokenizer.push((token,))
        if self._tokens > self._sampling.min_tokens:
            text = self._filter.push(text)
        reason: str | None = None
        if self._filter.stopped or grammar_ends or is_end:
            reason = protocol.FINISH_STOP
        elif self._tokens == self._max_tokens:
            reason = protocol.FINISH_LENGTH
        if reason is not None:
            text += self._filter.flush()
        return text, reason
