"""Logits to tokens, one row a sequence; a row's token never depends on the others.

A row's logits are processed in this order: logit bias, repetition penalty, presence and frequency penalties, bad words,
least length, structure; then temperature, top-k, top-p, min-p, typical-p, draw (transformers' order; vLLM's for what
transformers does not have). Log-probabilities are the model's own: of the logits before all that, as in OpenAI's API
and vLLM's default.
"""

import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fathom_server.engine.distribution import draw, largest
from fathom_server.engine.sampling_parameters import SamplingParameters

Logits = npt.NDArray[np.float32]
TokenMask = npt.NDArray[np.int32]

_FORBIDDEN: Final = np.float32(-np.inf)
_FORBIDDEN_BITS: Final = np.array(-np.inf, dtype=np.float32).view(np.int32)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's log-probability (natural logarithm)."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Choice:
    """A token that was chosen; its log-probability and the likeliest tokens' where the request asks for them."""

    token: int
    logprob: float | None = None
    top: tuple[TokenLogprob, ...] = ()


class SequenceSampler:
    """How one sequence's tokens are chosen, and what of its past that depends on.

    ``bad_word_ids`` are the token sequences that must not appear. A draw is a function of the seed, the sequence's
    index in its request and the token's position in the answer alone, whatever ran before or beside it; a request
    without a seed gets one here. The token that is drawn becomes part of the past with ``append``, not before.
    """

    def __init__(
        self,
        sampling: SamplingParameters,
        prompt_ids: Sequence[int],
        vocabulary: int,
        eos_token_ids: Collection[int],
        sequence_index: int,
        bad_word_ids: Sequence[Sequence[int]] = (),
    ) -> None:
        self.sampling = sampling
        self.position = 0
        self.is_plain_greedy = sampling.is_plain_greedy and not bad_word_ids
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        self._key = np.array([seed, sequence_index], dtype=np.uint64)
        self._bias = _Bias(sampling.logit_bias)
        self._seen = TokenCounts(prompt_ids if sampling.repetition_penalty != 1.0 else ())
        self._answer = TokenCounts(())
        self._bad_words = BadWords(bad_word_ids, prompt_ids)
        ends = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else eos_token_ids)}
        self._is_plain_draw = (
            sampling.repetition_penalty == 1.0
            and not self._penalises_answer
            and sampling.min_tokens == 0
            and not sampling.logit_bias
            and not bad_word_ids
        )
        self._end_ids = np.array(sorted(token for token in ends if token < vocabulary), dtype=np.int64)

    def needs_only(self, count: int) -> bool:
        """Whether the ``count`` largest logits of a row are enough to choose by, if no structure forbids any."""
        if self.sampling.wants_logprobs:
            return False
        if self.is_plain_greedy:
            return True
        # logits that equal the last of the top k are drawn too, so there must be more than k
        return self._is_plain_draw and 0 < self.sampling.top_k <= count // 2

    def append(self, token: int) -> None:
        """Take a chosen token into the past; the next draw is that of the next position."""
        self.position += 1
        if self.is_plain_greedy:
            return
        if self.sampling.repetition_penalty != 1.0:
            self._seen.add(token)
        if self._penalises_answer:
            self._answer.add(token)
        self._bad_words.append(token)

    def process(self, logits: Logits, mask: TokenMask | None) -> Logits:
        """The logits of one row, float32 [vocabulary], after everything that comes before temperature.

        Forbidden tokens are minus infinity. If bad words and least length leave nothing that ``mask`` allows, they
        yield. ``logits`` itself may be what is returned, and is left as it is.
        """
        if self.is_plain_greedy:
            return logits if mask is None else _allowed(logits, mask)
        scores = logits.copy()
        self._bias.apply(scores)
        self._penalise(scores)
        if mask is not None:
            scores = _allowed(scores, mask)
        forbidden = self._forbidden()
        if len(forbidden) == 0:
            return scores
        strict = scores.copy()
        strict[forbidden] = _FORBIDDEN
        return strict if np.isfinite(strict.max()) else scores

    def uniform(self, position: int) -> float:
        """The random number in [0, 1) of a position: Philox 4x64 (Salmon et al. 2011), its counter the position."""
        raw = np.random.Philox(key=self._key, counter=position).random_raw()
        return float(int(raw) >> 11) * 2.0**-53

    @property
    def _penalises_answer(self) -> bool:
        return self.sampling.presence_penalty != 0.0 or self.sampling.frequency_penalty != 0.0

    def _penalise(self, scores: Logits) -> None:
        penalty = np.float32(self.sampling.repetition_penalty)
        if penalty != 1.0:
            seen = scores[self._seen.ids]
            scores[self._seen.ids] = np.where(seen > 0, seen / penalty, seen * penalty)
        if self._penalises_answer:
            often = self._answer.counts.astype(np.float32) * np.float32(self.sampling.frequency_penalty)
            scores[self._answer.ids] -= often + np.float32(self.sampling.presence_penalty)

    def _forbidden(self) -> npt.NDArray[np.int64]:
        bad = self._bad_words.forbidden()
        if self.position < self.sampling.min_tokens:
            return np.concatenate([self._end_ids, bad])
        return bad


class TokenCounts:
    """Distinct tokens of a growing sequence, and how often each has come: ``ids`` and ``counts``, int64 [distinct]."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        ids, counts = np.unique(np.asarray(token_ids, dtype=np.int64), return_counts=True)
        self._place = {token: place for place, token in enumerate(ids.tolist())}
        self._ids, self._counts = ids, counts.astype(np.int64)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """The distinct tokens."""
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How often each of ``ids`` has come."""
        return self._counts[: len(self._place)]

    def add(self, token: int) -> None:
        """Count a token."""
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            room = np.zeros(max(16, place), dtype=np.int64)
            self._ids, self._counts = np.append(self._ids, room), np.append(self._counts, room)
        self._ids[place] = token
        self._counts[place] += 1


class BadWords:
    """Which token would complete a forbidden sequence, over prompt and answer (transformers' NoBadWords)."""

    def __init__(self, words: Sequence[Sequence[int]], prompt_ids: Sequence[int]) -> None:
        self._words = [(tuple(word[:-1]), word[-1]) for word in words if word]
        self._reach = max((len(beginning) for beginning, _ in self._words), default=0)
        self._tail = tuple(prompt_ids[len(prompt_ids) - self._reach :]) if self._reach else ()

    def append(self, token: int) -> None:
        """Take the next token of the sequence."""
        if self._reach:
            self._tail = (*self._tail, token)[-self._reach :]

    def forbidden(self) -> npt.NDArray[np.int64]:
        """The tokens that may not come next, int64."""
        tokens = [last for start, last in self._words if not start or self._tail[-len(start) :] == start]
        return np.array(tokens, dtype=np.int64)


class _Bias:
    """What is added to single tokens' logits."""

    def __init__(self, pairs: Iterable[tuple[int, float]]) -> None:
        listed = tuple(pairs)
        self._ids = np.array([token for token, _ in listed], dtype=np.int64)
        self._values = np.array([bias for _, bias in listed], dtype=np.float32)

    def apply(self, scores: Logits) -> None:
        if len(self._ids):
            scores[self._ids] += self._values


def sample(
    logits: Logits, samplers: Sequence[SequenceSampler], masks: Sequence[TokenMask | None]
) -> list[Choice | None]:
    """Choose each row's next token.

    ``logits`` is float32 [rows, vocabulary], row i that of ``samplers[i]``. ``masks[i]`` says which tokens a structure
    allows, int32 [ceil(vocabulary / 32)], token j in bit j % 32 of word j // 32 (the form of llguidance and xgrammar),
    or is None. A row whose logits are not finite, or that may choose nothing, gives None: nobody may be shown a token
    made up from it. Minus infinity in some of a row's logits is a model's way to forbid tokens.
    """
    best = logits.argmax(axis=-1)
    peaks = logits[np.arange(len(samplers)), best]
    finite = np.isfinite(peaks).tolist()
    choices: list[Choice | None] = []
    for row, (sampler, mask, token) in enumerate(zip(samplers, masks, best.tolist(), strict=True)):
        if not finite[row]:
            choices.append(None)
        elif sampler.is_plain_greedy and mask is None:
            choices.append(_choice(logits[row], token, sampler.sampling))
        else:
            choices.append(_sampled(logits[row], sampler, mask))
    return choices


def prompt_logprobs(logits: Logits, next_ids: Sequence[int], top: int) -> list[Choice]:
    """Log-probabilities of a prompt's tokens: row i of ``logits``, float32 [n, vocabulary], gives ``next_ids[i]``'s.

    ``top`` of the likeliest tokens come with each. A row that is not finite gives its token without any.
    """
    finite = np.isfinite(logits.max(axis=-1))
    return [
        _with_logprobs(logits[row], token, top) if finite[row] else Choice(token) for row, token in enumerate(next_ids)
    ]


def _sampled(logits: Logits, sampler: SequenceSampler, mask: TokenMask | None) -> Choice | None:
    scores = sampler.process(logits, mask)
    best = int(scores.argmax())
    if not np.isfinite(scores[best]):
        return None
    if sampler.sampling.temperature == 0.0:
        return _choice(logits, best, sampler.sampling)
    return _choice(logits, draw(scores, sampler.sampling, sampler.uniform(sampler.position)), sampler.sampling)


def _choice(logits: Logits, token: int, sampling: SamplingParameters) -> Choice:
    if not sampling.wants_logprobs:
        return Choice(token)
    return _with_logprobs(logits, token, sampling.logprobs or 0)


def _with_logprobs(logits: Logits, token: int, top: int) -> Choice:
    peak = logits.max()
    log_sum = float(peak) + float(np.log(np.exp(logits - peak).sum()))
    likeliest = largest(logits, top)
    return Choice(
        token,
        float(logits[token]) - log_sum,
        tuple(
            TokenLogprob(each, score - log_sum)
            for each, score in zip(likeliest.tolist(), logits[likeliest].tolist(), strict=True)
        ),
    )


def _allowed(scores: Logits, mask: TokenMask) -> Logits:
    """Scores with minus infinity wherever the mask has no bit, by bits: a select by booleans is ten times slower."""
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little", count=scores.size)
    keep = np.negative(bits.astype(np.int32))
    allowed: Logits = ((scores.view(np.int32) & keep) | (_FORBIDDEN_BITS & ~keep)).view(np.float32)
    return allowed
