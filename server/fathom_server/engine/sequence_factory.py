"""The sequences of a request whose turn has come: each with its own sampler, text and place in the grammar."""

from collections.abc import Collection

from fathom_server.engine.answer_text import AnswerText
from fathom_server.engine.block_pool import ROOT
from fathom_server.engine.request import Request
from fathom_server.engine.sampler import SequenceSampler
from fathom_server.engine.sequence import Sequence
from fathom_server.text.detokenizer import DetokenizerFactory
from fathom_server.text.tokenizer import TextTokenizer


class SequenceFactory:
    """Makes sequences of one model, by its tokenizer, its vocabulary's size and the tokens that end an answer."""

    def __init__(self, tokenizer: TextTokenizer, vocabulary: int, eos_token_ids: Collection[int]) -> None:
        self._detokenizers = DetokenizerFactory(tokenizer.tokenizer)
        self._vocabulary = vocabulary
        self._eos_token_ids = eos_token_ids

    def new(self, request: Request, lane: int) -> list[Sequence]:
        """One sequence for each of a request's answers, all in one lane."""
        return [self._one(request, index, lane) for index in range(request.sampling.sequences)]

    def _one(self, request: Request, index: int, lane: int) -> Sequence:
        sampling = request.sampling
        return Sequence(
            request=request,
            index=index,
            lane=lane,
            node=ROOT - lane,
            token_ids=list(request.prompt_ids),
            sampler=SequenceSampler(
                sampling,
                request.prompt_ids,
                self._vocabulary,
                self._eos_token_ids,
                index,
                request.bad_word_ids,
            ),
            text=AnswerText(
                sampling,
                self._detokenizers.new(skip_special_tokens=sampling.skip_special_tokens),
                self._eos_token_ids,
                request.max_tokens,
            ),
            matcher=None if request.grammar is None else request.grammar.matcher(),
        )
