"""Whether a small model's answer is trusted: the signal's value against the threshold, as soon as it is certain."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from fathom_client import FathomError
from fathom_server.cascade.evidence import Evidence, SequenceEvidence
from fathom_server.cascade.helpers import Helpers
from fathom_server.cascade.hook import Hook, SmallAnswer
from fathom_server.cascade.question import Question
from fathom_server.cascade.settings import TOKEN_SIGNALS, CascadeSettings
from fathom_server.errors import RequestError, SettingsError

logger: Final = logging.getLogger("fathom.cascade")

_ONLY_GROW_WORSE: Final = frozenset({"min_logprob", "max_entropy"})
"""Signals that later tokens cannot mend."""


class Judge:
    """Applies a cascade's signal; ``helpers`` are its encoders, ``hook`` the user's own signal, where it needs them."""

    def __init__(self, settings: CascadeSettings, helpers: Helpers | None, hook: Hook | None) -> None:
        self.settings = settings
        self.helpers = helpers
        self.hook = hook

    def begin(
        self,
        question: Question,
        embedding: "asyncio.Task[npt.NDArray[np.float32]] | None",
        ask_samples: Callable[[], Awaitable[list[str]]],
        left_s: Callable[[], float],
    ) -> "Opinion":
        """An opinion on the answer to a question; samples, where they are compared, are asked for at once."""
        samples = None
        if self.settings.signal == "agreement":
            samples = asyncio.ensure_future(ask_samples())
        return Opinion(self, question, embedding, samples, left_s)


class Opinion:
    """What one small answer is thought of, as it comes."""

    def __init__(
        self,
        judge: Judge,
        question: Question,
        embedding: "asyncio.Task[npt.NDArray[np.float32]] | None",
        samples: "asyncio.Future[list[str]] | None",
        left_s: Callable[[], float],
    ) -> None:
        self._judge = judge
        self._settings = judge.settings
        self._question = question
        self._embedding = embedding
        self._samples = samples
        self._left_s = left_s

    async def of(self, evidence: Evidence, *, is_whole: bool) -> tuple[bool | None, float | None]:
        """Whether the answer is trusted, None as long as that is open, and the signal's value.

        Where the signal cannot be had (a verifier that is away, a hook that raises) the answer is not trusted, and the
        value is None. Of several answers the most doubtful counts.
        """
        settings = self._settings
        if settings.signal in TOKEN_SIGNALS:
            return self._by_tokens(evidence, is_whole=is_whole)
        if not is_whole:
            return None, None
        try:
            values = [await self._value(evidence, sequence) for sequence in evidence.sequences]
        except (FathomError, RequestError, SettingsError) as error:
            logger.warning("request %s is not trusted: no %s: %s", self._question.request_id, settings.signal, error)
            return False, None
        except Exception:  # a user's hook may raise whatever it likes
            logger.exception("request %s is not trusted: the hook failed", self._question.request_id)
            return False, None
        value = math.nan if any(map(math.isnan, values)) else min(values)
        return settings.is_trusted(value), value

    async def close(self) -> None:
        """Leave what is still being asked for."""
        if self._samples is not None:
            self._samples.cancel()
            await asyncio.gather(self._samples, return_exceptions=True)

    def _by_tokens(self, evidence: Evidence, *, is_whole: bool) -> tuple[bool | None, float]:
        settings = self._settings
        most = settings.decide_after_tokens
        value = evidence.value(settings.signal, most)
        is_trusted = settings.is_trusted(value)
        is_certain = is_whole or (most > 0 and evidence.tokens >= most)
        if not is_trusted and settings.signal in _ONLY_GROW_WORSE and not math.isnan(value):
            is_certain = True
        return (is_trusted if is_certain else None), value

    async def _value(self, evidence: Evidence, sequence: SequenceEvidence) -> float:
        match self._settings.signal:
            case "agreement":
                return await self._agreement(sequence)
            case "verifier":
                return await self._verified(sequence)
            case "learned":
                return await self._learned(evidence, sequence)
            case _:
                return await self._hooked(sequence)

    async def _agreement(self, sequence: SequenceEvidence) -> float:
        """The share of sampled answers whose text is this one's."""
        if self._samples is None:
            raise SettingsError("no samples were asked for")
        texts = await self._samples
        return sum(text.strip() == sequence.text.strip() for text in texts) / len(texts) if texts else math.nan

    async def _verified(self, sequence: SequenceEvidence) -> float:
        if self._judge.helpers is None:
            raise SettingsError("there is no verifier")
        return await self._judge.helpers.score(self._question.prompt.last, sequence.text, self._left_s())

    async def _learned(self, evidence: Evidence, sequence: SequenceEvidence) -> float:
        """One less the probability that the large model alone is right."""
        learned = self._settings.learned
        if learned is None or not sequence.logprobs:
            return math.nan
        features = evidence.features(sequence)
        if learned.uses_embedding:
            if self._embedding is None:
                raise SettingsError("there is no encoder")
            features = [*features, *map(float, await asyncio.shield(self._embedding))]
        return 1.0 - learned.probability(features)

    async def _hooked(self, sequence: SequenceEvidence) -> float:
        hook, question = self._judge.hook, self._question
        if hook is None:
            raise SettingsError("there is no hook")
        answer = SmallAnswer(
            question.prompt.last,
            sequence.text,
            sequence.finish_reason,
            tuple(sequence.logprobs),
            tuple(sequence.entropies),
            dict(question.parameters),
        )
        return float(await asyncio.to_thread(hook, answer))
