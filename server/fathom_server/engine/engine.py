"""The loop: requests in, pieces of answers out, one step after another on a thread of its own."""

import contextlib
import logging
import threading
import time
from array import array
from collections.abc import Sequence as Ids
from typing import Final

from fathom_server.engine.best_of import AnswerSelection
from fathom_server.engine.block_pool import BlockPool
from fathom_server.engine.deadlines import Deadlines
from fathom_server.engine.grammar import GrammarCompiler
from fathom_server.engine.inbox import Inbox
from fathom_server.engine.lanes import MAIN, Lanes
from fathom_server.engine.metrics import EngineLoad, EngineMetrics
from fathom_server.engine.model_bounds import ModelBounds
from fathom_server.engine.request import NO_DEADLINE, AnswerSink, Request
from fathom_server.engine.runner.base import LanedRunner, Runner, StepRow
from fathom_server.engine.sampling_parameters import SamplingParameters
from fathom_server.engine.scheduler import Scheduler
from fathom_server.engine.sequence import Sequence
from fathom_server.engine.sequence_factory import SequenceFactory
from fathom_server.engine.settings import EngineSettings
from fathom_server.engine.speculator import Speculator
from fathom_server.engine.stepper import PlannedStep, Progress, Stepper
from fathom_server.engine.structured_output import StructuredOutput
from fathom_server.errors import (
    CancelledRequestError,
    DeadlineError,
    EngineFailureError,
    InvalidRequestError,
    RequestError,
    ShuttingDownError,
)
from fathom_server.text.tokenizer import TextTokenizer

logger: Final = logging.getLogger("fathom.engine")


class Engine:
    """Serves one model to many requests at once.

    ``submit`` and ``cancel`` may be called from any thread; answers come from the engine's thread.
    """

    def __init__(
        self,
        runner: Runner,
        settings: EngineSettings,
        tokenizer: TextTokenizer,
        speculator: Speculator | None = None,
    ) -> None:
        self._runner = runner
        self._limits = limits = settings.limits
        vocabulary, eos_token_ids = settings.graph.vocabulary, frozenset(settings.eos_token_ids)
        context = min(limits.max_context, runner.geometry.blocks * runner.geometry.block_tokens)
        self._bounds = ModelBounds(context, limits.default_max_tokens, vocabulary)
        self._grammars = GrammarCompiler(tokenizer, vocabulary, eos_token_ids)
        self._sequences = SequenceFactory(tokenizer, vocabulary, eos_token_ids)
        self._pool = BlockPool(runner.geometry)
        self._lanes = Lanes(runner.lanes if isinstance(runner, LanedRunner) else (settings.graph.precision,))
        self.metrics = EngineMetrics(by_precision=dict.fromkeys(self._lanes.names, 0))
        self._scheduler = Scheduler(self._pool, limits.max_batch, limits.prefill_chunk, self._new_sequences)
        self._stepper = Stepper(runner, self._scheduler, speculator, self.metrics)
        self._selections: dict[Request, AnswerSelection] = {}
        self._inbox = Inbox(limits.max_batch, limits.max_queue)
        self._deadlines = Deadlines()
        self._thread = threading.Thread(target=self._run, name="fathom-engine", daemon=True)

    def start(self) -> None:
        """Compute a step of every kind once, so that no caller pays for first use, then begin to serve."""
        geometry = self._runner.geometry
        chunk = min(self._limits.prefill_chunk, self._limits.max_context - 1)
        prompt_blocks = list(range(self._pool.blocks_for(chunk)))
        for lane in range(len(self._lanes.names)):
            self._runner.step([StepRow(prompt_blocks, 0, [0] * chunk, 1, lane)])
            for batch in {1, min(self._limits.max_batch, geometry.blocks)}:
                self._runner.step([StepRow([block], 0, [0], 1, lane) for block in range(batch)])
        self._thread.start()

    def stop(self) -> None:
        """End at once; what has not been answered fails with ShuttingDownError. Returns when the thread has ended."""
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join()
        self._stepper.close()

    def prepare_grammars(self) -> None:
        """Make what all grammars share, so that the first structured request need not wait for it.

        Takes seconds for a large vocabulary: for a thread of the caller's. Nothing happens where a tokenizer allows no
        structured output: each such request is told why.
        """
        with contextlib.suppress(InvalidRequestError):
            self._grammars.compile(StructuredOutput("json_object"))

    def submit(
        self,
        request_id: str,
        prompt_ids: Ids[int],
        sampling: SamplingParameters,
        sink: AnswerSink,
        timeout_s: float | None = None,
        *,
        queue_timeout_s: float | None = None,
        priority: int = 0,
        client: str = "",
        precision: str | None = None,
        bad_word_ids: Ids[Ids[int]] = (),
    ) -> Request:
        """Queue a request; its answers go to ``sink``.

        ``timeout_s`` and ``queue_timeout_s`` (until it is admitted) count from now. A lower ``priority`` goes first;
        within one, clients take turns by the tokens that they were given. ``precision`` names the lane that is to
        answer, where there are two. ``bad_word_ids`` are the bad words' tokens. A grammar is compiled before this
        returns.

        Raises InvalidRequestError for what the model cannot take, QueueFullError when ``max_queue`` requests wait, and
        ShuttingDownError after ``stop``.
        """
        max_tokens = self._bounds.checked_max_tokens(prompt_ids, sampling)
        lane = self._lanes.pinned(precision)
        grammar = None if sampling.structured_outputs is None else self._grammars.compile(sampling.structured_outputs)
        now = time.monotonic()
        queue_timeout_s = self._limits.queue_timeout_s if queue_timeout_s is None else queue_timeout_s
        request = Request(
            id=request_id,
            prompt_ids=array("i", prompt_ids),
            sampling=sampling,
            max_tokens=max_tokens,
            sink=sink,
            deadline=now + (self._limits.timeout_s if timeout_s is None else timeout_s),
            queue_deadline=now + queue_timeout_s if queue_timeout_s else NO_DEADLINE,
            priority=priority,
            client=client,
            lane=lane,
            bad_word_ids=bad_word_ids,
            grammar=grammar,
            created=now,
        )
        self._inbox.put(request)
        return request

    def cancel(self, request: Request) -> None:
        """Drop a request before the next step; its sink gets CancelledRequestError. Nothing happens if it has ended."""
        self._inbox.cancel(request)

    def load(self) -> EngineLoad:
        """How busy the engine is now."""
        running = len({id(sequence.request) for sequence in tuple(self._scheduler.running)})
        usage = self._pool.held / self._pool.geometry.blocks
        return EngineLoad(running, max(0, self._inbox.under_way - running), usage)

    # ---- the engine's thread ----

    def _run(self) -> None:
        while (news := self._inbox.take(waits=not self._scheduler.has_work)) is not None:
            arrived, cancelled = news
            for request in arrived:
                self._receive(request)
            self._drop_leavers(cancelled)
            self._step()
        gone = ShuttingDownError("the server is shutting down; the answer is not complete")
        for request in [*self._scheduler.requests(), *self._inbox.left_over()]:
            request.sink.on_error(gone)

    def _receive(self, request: Request) -> None:
        self._scheduler.waiting.push(request)
        self._deadlines.add(request)
        self._selections[request] = AnswerSelection(request)

    def _drop_leavers(self, cancelled: list[Request]) -> None:
        for request in cancelled:
            if request in self._selections:
                self._fail(request, CancelledRequestError("the caller left"), "cancelled")
        now = time.monotonic()
        for request in self._deadlines.passed(now):
            reason = request.late_reason(now)
            if request in self._selections and reason is not None:
                self._fail(request, DeadlineError(reason), "deadline")

    def _step(self) -> None:
        step = PlannedStep([])
        try:
            self._gather_lanes()
            step = self._stepper.plan()
            if not step.rows:
                return
            self._note_admissions(step)
            progress = self._stepper.compute(step)
        except Exception:
            # what failed may be the planning itself: then nobody can be told apart, and all that run end
            sequences = [row.sequence for row in step.rows] or list(self._scheduler.running)
            self._fail_step(list(dict.fromkeys(sequence.request for sequence in sequences)), step.kind)
        else:
            for one in progress:
                self._give(one)

    def _gather_lanes(self) -> None:
        """Have those whose answer has not begun follow the load to the main lane: a burst does not arrive at once."""
        if not self._lanes.is_crowded(len(self._scheduler.running) + len(self._scheduler.waiting)):
            return
        for sequence in self._scheduler.running:
            if sequence.lane != MAIN and sequence.request.lane is None and not sequence.request.has_begun:
                self._scheduler.change_lane(sequence, MAIN)

    def _note_admissions(self, step: PlannedStep) -> None:
        now = time.monotonic()
        for row in step.rows:
            request = row.sequence.request
            if request.admitted is None:
                request.admitted = now
                self.metrics.count_admission(now - request.created, len(request.prompt_ids), row.sequence.cached)

    def _give(self, progress: Progress) -> None:
        sequence, request = progress.sequence, progress.sequence.request
        if request not in self._selections:
            return  # a sibling has failed in this very step
        if progress.broken:
            self._fail(request, self._breakage(sequence), "error")
            return
        is_first = sequence.generated == len(progress.token_ids)
        if request.first_token is None:
            self._note_first_token(request)
        if is_first and sequence.index == 0:
            for sibling in request.sequences[1:]:
                self._scheduler.resume(sibling)
        self.metrics.generation_tokens += len(progress.token_ids)
        self._scheduler.waiting.charge(request.client, len(progress.token_ids))
        if progress.finish_reason is not None:
            self._scheduler.remove(sequence)
            self._stepper.forget(sequence)
            self.metrics.count_end(progress.finish_reason)
        is_last = all(one.ended for one in request.sequences)
        piece = progress.piece(is_first=is_first, is_last=is_last)
        selection = self._selections[request]
        if is_last:
            self._note_end(request)
            self._leave(request)
        selection.give(sequence, piece)

    def _breakage(self, sequence: Sequence) -> RequestError:
        """Why no token could be chosen."""
        if sequence.matcher is not None and sequence.matcher.error is not None:
            return sequence.matcher.error
        logger.error("request %s: the model's logits are not finite", sequence.request.id)
        return EngineFailureError(f"the model gave logits that are not finite (id {sequence.request.id})")

    def _note_first_token(self, request: Request) -> None:
        request.first_token = now = time.monotonic()
        precision = self._lanes.names[request.sequences[0].lane]
        self.metrics.count_first_token(now - request.created, now - (request.admitted or request.created), precision)

    def _note_end(self, request: Request) -> None:
        now, first = time.monotonic(), request.first_token or request.created
        tokens = max(sequence.generated for sequence in request.sequences)
        self.metrics.count_answered(now - request.created, now - first, tokens)

    def _fail_step(self, requests: list[Request], kind: str) -> None:
        """An exception in a step ends the requests in it, not the engine."""
        ids = ", ".join(request.id for request in requests)
        logger.exception("a %s step failed; requests: %s", kind, ids)
        for request in requests:
            error = EngineFailureError(f"a {kind} step failed; see the server's log (id {request.id})")
            self._fail(request, error, "error")

    def _fail(self, request: Request, error: RequestError, reason: str) -> None:
        self.metrics.count_end(reason)
        self._leave(request)
        request.sink.on_error(error)

    def _leave(self, request: Request) -> None:
        """Free whatever a request holds."""
        if request.admitted is None:
            self._scheduler.drop_waiting(request)
        for sequence in request.sequences:
            if not sequence.ended:
                self._scheduler.remove(sequence)
                self._stepper.forget(sequence)
        del self._selections[request]
        self._inbox.leave()
        self.metrics.preemptions = self._scheduler.preemptions

    def _new_sequences(self, request: Request) -> list[Sequence]:
        lane = request.lane
        if lane is None:
            running = [one.lane for one in (*self._scheduler.running, *self._scheduler.resumable)]
            lane = self._lanes.choose(running, len(self._scheduler.waiting))
        return self._sequences.new(request, lane)
