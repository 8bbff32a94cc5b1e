"""One request's way: routed, asked of the small model, held while the decision is open, given or handed over."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from fathom_client import FathomError, protocol
from fathom_server.cascade.budget import Budget
from fathom_server.cascade.details import Cost, Details
from fathom_server.cascade.evidence import Evidence, TensorValues
from fathom_server.cascade.helpers import Helpers
from fathom_server.cascade.hook import Hook
from fathom_server.cascade.judge import Judge
from fathom_server.cascade.metrics import CascadeMetrics
from fathom_server.cascade.model_behind import Part
from fathom_server.cascade.question import Question
from fathom_server.cascade.router import Router
from fathom_server.cascade.settings import CascadeSettings
from fathom_server.errors import (
    CancelledRequestError,
    DeadlineError,
    InvalidRequestError,
    RequestError,
    SettingsError,
)

logger: Final = logging.getLogger("fathom.cascade")

FINAL_ERRORS: Final = (CancelledRequestError, DeadlineError)
"""What no other model can mend."""


class AskedModel(Protocol):
    """A model behind the cascade (``ModelBehind``)."""

    name: str

    def ask(
        self,
        request_id: str,
        tensors: Mapping[str, npt.NDArray[Any]],
        parameters: Mapping[str, Any],
        timeout_s: float,
    ) -> AsyncGenerator[Part]:
        """Its responses as they come; raises RequestError."""
        ...


class AnswerSink(Protocol):
    """Where an answer goes."""

    async def send(self, tensors: TensorValues, *, is_last: bool) -> None:
        """Take a response's tensors; after the last one nothing comes."""
        ...


class Cascade:
    """Answers requests by two models; for one event loop."""

    def __init__(
        self,
        settings: CascadeSettings,
        small: AskedModel,
        large: AskedModel,
        helpers: Helpers | None = None,
        hook: Hook | None = None,
    ) -> None:
        self.metrics = CascadeMetrics()
        self._settings = settings
        self._small, self._large = small, large
        self._helpers = helpers
        self._router = Router(settings.router)
        self._budget = Budget(settings.budget, settings.budget_burst)
        self._judge = Judge(settings, helpers, hook)

    async def answer(self, question: Question, sink: AnswerSink) -> None:
        """Answer one request; raises the RequestError that its caller is to get, if there is no answer."""
        settings = self._settings
        details = Details(settings.signal, settings.threshold, Cost(self._small.name), Cost(self._large.name))
        self._budget.count_request()
        try:
            await _Way(self, question, sink, details).go()
            self.metrics.count_answer(details)
        finally:
            self.metrics.count_costs(details)


class _Way:
    """One request on its way through a cascade."""

    def __init__(self, cascade: Cascade, question: Question, sink: AnswerSink, details: Details) -> None:
        self._settings = cascade._settings
        self._small, self._large = cascade._small, cascade._large
        self._helpers, self._router = cascade._helpers, cascade._router
        self._budget, self._judge = cascade._budget, cascade._judge
        self._question = question
        self._sink = sink
        self._details = details
        self._parameters = {
            name: value for name, value in question.parameters.items() if name != protocol.TASK_PARAMETER
        }
        self._deadline = time.monotonic() + question.timeout_s
        self._embedding: asyncio.Task[npt.NDArray[np.float32]] | None = None
        self._has_sent = False

    async def go(self) -> None:
        """To the answer's end."""
        try:
            if await self._is_routed():
                if self._budget.take():
                    if not await self._give_large():
                        await self._give_small()
                else:
                    self._details.reason = "budget"
                    await self._give_small()
            else:
                await self._judged()
        finally:
            if self._embedding is not None:
                self._embedding.cancel()
                await asyncio.gather(self._embedding, return_exceptions=True)

    @property
    def _left_s(self) -> float:
        return self._deadline - time.monotonic()

    async def _is_routed(self) -> bool:
        """Whether the large model is to answer straight away; the details then say why."""
        prompt = self._question.prompt
        route = self._router.by_rules(prompt, self._question.parameters)
        if route is None and self._settings.needs_encoder and self._helpers is not None:
            self._embedding = asyncio.create_task(self._helpers.embed(prompt.last, self._left_s))
            if self._router.needs_embedding:
                try:
                    route = self._router.by_embedding(await asyncio.shield(self._embedding))
                except (FathomError, SettingsError) as error:
                    logger.warning("request %s is not routed by its prompt: %s", self._question.request_id, error)
        if route is not None:
            self._details.reason = route
        return route is not None

    async def _judged(self) -> None:
        """Ask the small model, hold what comes until it is trusted or not, and give it or hand over."""
        question, details = self._question, self._details
        evidence = Evidence(question.sequences)
        held: list[Part] = []
        is_trusted: bool | None = None
        is_whole = False
        began: float | None = None
        opinion = self._judge.begin(question, self._embedding, self._ask_samples, lambda: self._left_s)
        try:
            async with aclosing(self._ask_small(likeliest=self._settings.needs_entropy)) as parts:
                async for part in parts:
                    if is_trusted is not None:
                        await self._send(part)
                        continue
                    began = time.monotonic() if began is None else began
                    held.append(part)
                    if part.tensors:
                        evidence.add(part.tensors)
                    is_whole = part.is_last
                    is_trusted, details.value = await opinion.of(evidence, is_whole=is_whole)
                    if is_trusted is None:
                        continue
                    details.held_s = time.monotonic() - began
                    details.reason = "trusted" if is_trusted else "doubted"
                    if not is_trusted and not self._budget.take():
                        is_trusted, details.reason = True, "budget"
                    if not is_trusted:
                        break
                    await self._release(held)
        except (KeyError, ValueError, IndexError) as error:
            raise InvalidRequestError(
                f"{self._small.name} gives no log-probabilities that fit ({error!r}); it must be a model of Fathom's "
                "tensors"
            ) from error
        except RequestError as error:
            if self._has_sent or isinstance(error, (*FINAL_ERRORS, InvalidRequestError)) or not self._budget.take():
                raise
            details.reason = "small_unavailable"
            if not await self._give_large():
                raise
            return
        finally:
            await opinion.close()
        if is_trusted:
            return
        if await self._give_large():
            return
        if is_whole:
            await self._release(held)
        else:
            await self._give_small()

    async def _give_large(self) -> bool:
        """Pass the large model's answer on; False where it gives none, and the details then say so."""
        question, details = self._question, self._details
        reason, details.answered_by = details.reason, "large"
        try:
            responses = self._large.ask(question.request_id, question.for_large(), self._parameters, self._left_s)
            async with aclosing(_metered(responses, details.large)) as parts:
                async for part in parts:
                    await self._send(part)
        except RequestError as error:
            if self._has_sent or isinstance(error, FINAL_ERRORS):
                raise
            details.answered_by, details.large_error = "small", str(error)
            details.reason = "large_unavailable"
            logger.warning(
                "request %s (%s): %s gave no answer: %s", question.request_id, reason, self._large.name, error
            )
            return False
        return True

    async def _give_small(self) -> None:
        """Pass the small model's answer on as it comes."""
        async with aclosing(self._ask_small(likeliest=False)) as parts:
            async for part in parts:
                await self._send(part)

    def _ask_small(self, *, likeliest: bool) -> AsyncGenerator[Part]:
        question = self._question
        responses = self._small.ask(
            question.request_id, question.for_small(likeliest=likeliest), self._parameters, self._left_s
        )
        return _metered(responses, self._details.small)

    async def _ask_samples(self) -> list[str]:
        """Further answers of the small model, sampled."""
        settings, question = self._settings, self._question
        tensors = question.for_samples(settings.samples, settings.sample_temperature)
        responses = self._small.ask(question.request_id, tensors, self._parameters, self._left_s)
        texts = []
        async with aclosing(_metered(responses, self._details.small)) as parts:
            async for part in parts:
                texts += [bytes(text).decode("utf-8", "replace") for text in part.tensors.get(protocol.TEXT_OUTPUT, ())]
        return texts

    async def _release(self, held: list[Part]) -> None:
        for part in held:
            await self._send(part)
        held.clear()

    async def _send(self, part: Part) -> None:
        """Hand a response on, what the caller wants of it; the last one tells the costs."""
        tensors = self._question.asked_for(part.tensors)
        if part.is_last:
            tensors[protocol.CASCADE] = np.array([self._details.as_json().encode()], dtype=np.object_)
        if tensors:
            self._has_sent = True
            await self._sink.send(tensors, is_last=part.is_last)


async def _metered(responses: AsyncGenerator[Part], cost: Cost) -> AsyncGenerator[Part]:
    """The responses of one request to a model, whose tokens are counted as they come."""
    has_begun = False
    async with aclosing(responses) as parts:
        async for part in parts:
            if protocol.NUM_OUTPUT_TOKENS in part.tensors:
                cost.output_tokens += int(part.tensors[protocol.NUM_OUTPUT_TOKENS].sum())
            if not has_begun and protocol.NUM_INPUT_TOKENS in part.tensors:
                has_begun = True
                cost.input_tokens += int(part.tensors[protocol.NUM_INPUT_TOKENS][0])
            yield part
